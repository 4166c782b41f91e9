// SPDX-License-Identifier: Apache-2.0
// A link between two network namespaces with a rate, a delay, losses, an outage and a step of its rate: packets of one
// TUN device come out of the other, later or never. It does what `tc ... netem` does, where the kernel has no netem.
//
//   shaped_link CLIENT_NS SERVER_NS DEVICE [rate_mbit=N] [delay_ms=N] [loss=F] [queue_ms=N] [seed=N]
//               [outage_at_s=N outage_s=N] [step_at_s=N step_mbit=N] [offload=1]
//
// DEVICE exists in both namespaces (ip tuntap add). `delay_ms` is for one way; both ways are alike. Times count from
// the first TCP packet. `offload` passes runs of segments as one packet, as network cards do (TSO, GRO): at 1 Gb/s the
// link would otherwise take a core for itself; losses and the queue then count such runs. Prints "ready", then works
// until SIGTERM, then prints what it passed and dropped.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr ssize_t kOffloadHeaderBytes = 10;  // struct virtio_net_hdr, whose own header is no C++

struct Link {
  double bytes_per_s = 1e9;
  double delay_s = 0;
  double loss = 0;
  double queue_s = 0.2;  // what a full buffer takes to drain; more is dropped
  double outage_at_s = -1, outage_s = 0;
  double step_at_s = -1, step_bytes_per_s = 0;

  double rate(double at_s) const { return step_at_s >= 0 && at_s >= step_at_s ? step_bytes_per_s : bytes_per_s; }
  bool is_out(double at_s) const { return outage_at_s >= 0 && at_s >= outage_at_s && at_s < outage_at_s + outage_s; }
};

struct Packet {
  double release_s;
  std::vector<char> bytes;
};

struct Direction {
  int from;
  int to;
  double busy_until_s = 0;
  std::deque<Packet> queue = {};
  unsigned long passed = 0, dropped = 0;
};

volatile std::sig_atomic_t stopped = 0;

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

// The end of `device` that belongs to the namespace; the thread stays in it, which does not matter here.
int open_tun(const std::string& name_space, const char* device, bool offload) {
  const int where = ::open(("/run/netns/" + name_space).c_str(), O_RDONLY | O_CLOEXEC);
  if (where < 0 || ::setns(where, CLONE_NEWNET) != 0) fail(name_space.c_str());
  ::close(where);
  const int tun = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ifreq request{};
  request.ifr_flags = static_cast<short>(IFF_TUN | IFF_NO_PI | (offload ? IFF_VNET_HDR : 0));
  std::strncpy(request.ifr_name, device, IFNAMSIZ - 1);
  if (tun < 0 || ::ioctl(tun, TUNSETIFF, &request) != 0) fail(device);
  // Without, too: the device outlives a shaper, and would keep what the last one asked for.
  if (::ioctl(tun, TUNSETOFFLOAD, offload ? TUN_F_CSUM | TUN_F_TSO4 : 0) != 0) fail("TUNSETOFFLOAD");
  return tun;
}

bool is_tcp(const char* packet, ssize_t bytes) { return bytes >= 20 && (packet[0] >> 4) == 4 && packet[9] == 6; }

class Shaper {
 public:
  // `header_bytes` lie before every packet, and travel with it.
  Shaper(const Link& link, unsigned seed, ssize_t header_bytes, int client, int server)
      : link_(link), random_(seed), header_bytes_(header_bytes), directions_{{{client, server}, {server, client}}} {}

  void run() {
    while (stopped == 0) {
      for (Direction& direction : directions_) {
        take_in(direction);
        let_out(direction);
      }
      wait();
    }
    for (const Direction& direction : directions_) {
      std::printf("%s: %lu packets, %lu dropped\n", direction.from == directions_[0].from ? "up" : "down",
                  direction.passed, direction.dropped);
    }
  }

 private:
  double now_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  void take_in(Direction& direction) {
    std::array<char, 65536 + kOffloadHeaderBytes> packet;
    for (;;) {
      const ssize_t bytes = ::read(direction.from, packet.data(), packet.size());
      if (bytes <= header_bytes_) return;
      if (!started_ && is_tcp(packet.data() + header_bytes_, bytes - header_bytes_)) {
        started_ = true;
        start_ = Clock::now();
      }
      const double now = now_s();
      const bool lost = std::uniform_real_distribution<double>(0, 1)(random_) < link_.loss;
      const double begin = std::max(now, direction.busy_until_s);
      if (lost || link_.is_out(now) || begin - now > link_.queue_s) {
        ++direction.dropped;
        continue;
      }
      direction.busy_until_s = begin + static_cast<double>(bytes) / link_.rate(now);
      direction.queue.push_back({direction.busy_until_s + link_.delay_s, {packet.data(), packet.data() + bytes}});
    }
  }

  void let_out(Direction& direction) {
    const double now = now_s();
    while (!direction.queue.empty() && direction.queue.front().release_s <= now) {
      const std::vector<char>& bytes = direction.queue.front().bytes;
      const bool written = ::write(direction.to, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
      ++(written ? direction.passed : direction.dropped);
      direction.queue.pop_front();
    }
  }

  void wait() const {
    double wait_s = 0.1;
    for (const Direction& direction : directions_) {
      if (!direction.queue.empty()) wait_s = std::min(wait_s, direction.queue.front().release_s - now_s());
    }
    if (wait_s <= 0) return;
    std::array<pollfd, 2> ends = {{{directions_[0].from, POLLIN, 0}, {directions_[1].from, POLLIN, 0}}};
    const timespec time = {0, static_cast<long>(wait_s * 1e9)};
    ::ppoll(ends.data(), ends.size(), &time, nullptr);
  }

  Link link_;
  std::mt19937 random_;
  const ssize_t header_bytes_;
  std::array<Direction, 2> directions_;
  bool started_ = false;
  Clock::time_point start_ = Clock::now();
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: shaped_link CLIENT_NS SERVER_NS DEVICE [key=value ...]\n");
    return 2;
  }
  std::map<std::string, double> values;
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i];
    const size_t equals = word.find('=');
    if (equals != std::string::npos) values[word.substr(0, equals)] = std::atof(word.c_str() + equals + 1);
  }
  const auto value = [&values](const char* key, double otherwise) {
    return values.contains(key) ? values[key] : otherwise;
  };
  constexpr double kMbit = 1e6 / 8;
  Link link;
  link.bytes_per_s = value("rate_mbit", 10'000) * kMbit;
  link.delay_s = value("delay_ms", 0) / 1000;
  link.loss = value("loss", 0);
  link.queue_s = value("queue_ms", 200) / 1000;
  link.outage_at_s = value("outage_at_s", -1);
  link.outage_s = value("outage_s", 0);
  link.step_at_s = value("step_at_s", -1);
  link.step_bytes_per_s = value("step_mbit", 1) * kMbit;

  const bool offload = value("offload", 0) != 0;
  const int client = open_tun(argv[1], argv[3], offload);
  const int server = open_tun(argv[2], argv[3], offload);
  std::signal(SIGTERM, [](int) { stopped = 1; });
  std::puts("ready");
  std::fflush(stdout);
  Shaper(link, static_cast<unsigned>(value("seed", 1)), offload ? kOffloadHeaderBytes : 0, client, server).run();
  return 0;
}
