// SPDX-License-Identifier: Apache-2.0
// The program from outside: exit codes, streams, colours, what it writes and what it never touches.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "formats/archive_layout.h"
#include "formats/npy_header.h"
#include "tests/forged_archive.h"
#include "tests/program_run.h"
#include "tests/sample_files.h"
#include "tests/state_builder.h"

using namespace kvpack;
using namespace kvpack::test;
namespace fs = std::filesystem;

namespace {

const std::string kState = sample_path("zoo/gemma2.bin");
const std::string kModel = sample_path("nano-f16.gguf");

class Workplace : public engine::ScratchFolder {
 public:
  std::string put(const std::string& name, ByteSpan bytes) const {
    must(engine::write_file(file(name), bytes));
    return file(name);
  }
  std::string put(const std::string& name, std::string_view text) const { return put(name, as_byte_span(text)); }
  Bytes get(const std::string& name) const { return must(engine::read_file(file(name))); }
  // A lossless archive of kState.
  std::string archive(const std::string& name = "a.kvp") const {
    const Outcome made = run_kvpack({"encode", kState, "--quality", "lossless", "-f", "-q", "-o", file(name)});
    REQUIRE_MESSAGE(made.exit_code == 0, made.err);
    return file(name);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(file("."))) all.push_back(entry.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }
};

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

// Ended with `code`, and said why in one error line that contains `text`.
void check_failure(const Outcome& outcome, int code, std::string_view text) {
  CAPTURE(outcome.err);
  CHECK(outcome.exit_code == code);
  CHECK(outcome.err.starts_with("kvpack: error: "));
  CHECK(outcome.err.find("error: ", 15) == std::string::npos);
  CHECK(contains(outcome.err, text));
}

// Values that zstd cannot shrink: the archive is as large as the file, and writing it takes a while.
Bytes large_npy() {
  constexpr uint64_t kTokens = 16384;
  Bytes bytes = make_npy_header({"<f2", false, {2, 2, 4, kTokens, 64}, 0});
  std::mt19937_64 random(1);
  const size_t header = bytes.size();
  bytes.resize(header + 2 * 2 * 4 * kTokens * 64 * 2);
  for (size_t i = header; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random() & 0xbfffbfffbfffbfffull;  // finite
    std::memcpy(&bytes[i], &word, sizeof word);
  }
  return bytes;
}

}  // namespace

TEST_CASE("cli: the main job, through files and through pipes") {
  const Workplace folder;
  const Bytes original = must(engine::read_file(kState));
  const Outcome encoded = run_kvpack({"encode", kState, "--quality", "lossless", "-o", folder.file("a.kvp")});
  CHECK(encoded.exit_code == 0);
  CHECK(contains(encoded.out, "bits per value"));
  CHECK(contains(encoded.out, "iSWA"));
  CHECK(run_kvpack({"decode", folder.file("a.kvp"), "-o", folder.file("b.bin")}).exit_code == 0);
  CHECK(folder.get("b.bin") == original);

  const Outcome piped = run_kvpack({"encode", "-", "--quality", "lossless", "-o", "-"}, {.input = kState});
  CHECK(piped.exit_code == 0);
  CHECK(contains(piped.err, "bits per value"));  // the report makes way for the archive
  CHECK(Bytes(as_byte_span(piped.out).begin(), as_byte_span(piped.out).end()) == folder.get("a.kvp"));
  const std::string archive = folder.put("c.kvp", piped.out);
  const Outcome unpacked = run_kvpack({"decode", "-", "-q", "-o", "-"}, {.input = archive});
  CHECK(unpacked.exit_code == 0);
  CHECK(unpacked.err.empty());
  CHECK(unpacked.out == as_text(original));
  CHECK(run_kvpack({"verify", "-"}, {.input = archive}).exit_code == 0);
  CHECK(run_kvpack({"inspect", "-"}, {.input = archive}).exit_code == 0);
}

TEST_CASE("cli: exit 2 for usage, with a suggestion for what was mistyped") {
  check_failure(run_kvpack({}), 2, "kvpack --help");
  check_failure(run_kvpack({"encdoe", kState}), 2, "did you mean 'encode'?");
  check_failure(run_kvpack({"veryfi"}), 2, "did you mean 'verify'?");
  check_failure(run_kvpack({"xyzzy"}), 2, "verbs: ");
  check_failure(run_kvpack({"encode", kState, "--qualty", "high", "-o", "x"}), 2, "did you mean '--quality'?");
  check_failure(run_kvpack({"encode", kState}), 2, "--output");
  check_failure(run_kvpack({"encode", kState, "--quality", "best", "-o", "x"}), 2, "lossless, high, medium, low");
  check_failure(run_kvpack({"encode", kState, "--bits", "-1", "-o", "x"}), 2, "number above 0");
  check_failure(run_kvpack({"encode", kState, "--bits", "3", "--ratio", "4", "-o", "x"}), 2, "excludes");
  check_failure(run_kvpack({"decode", "x.kvp", "--tokens", "9:3", "-o", "x"}), 2, "empty range");
  check_failure(run_kvpack({"inspect", kState}, {.environment = {"KVPACK_ISA=sse9"}}), 2, "can run scalar");
  check_failure(run_kvpack({"help", "encdoe"}), 2, "did you mean 'encode'?");
  check_failure(run_kvpack({"encode", "-", "--text", "-", "-o", "x"}), 2, "standard input");
  const Workplace folder;
  check_failure(run_kvpack({"decode", folder.archive(), "--level", "9", "-o", folder.file("x")}), 2, "no level 9");
  check_failure(run_kvpack({"encode", folder.archive(), "-o", folder.file("x")}), 2, "archive already");
  check_failure(run_kvpack({"encode", kState, "-m", kModel, "-o", folder.file("x")}), 2, "the model has");
  check_failure(run_kvpack({"diff", kState, sample_path("zoo/jamba.bin")}), 2, "shapes differ");
  for (const char* word : {"--help", "encode", "decode", "inspect", "verify", "diff", "bench", "model", "version"}) {
    const Outcome help = run_kvpack({word, "--help"});
    CHECK(help.exit_code == 0);
    CHECK(contains(help.out, "Examples:"));
  }
}

TEST_CASE("cli: exit 10, 11, 12 and 13 for what an input is") {
  const Workplace folder;
  for (const char* verb : {"inspect", "verify"}) {
    check_failure(run_kvpack({verb, sample_path("lighthouse.txt")}), 10, "lighthouse.txt");
    check_failure(run_kvpack({verb, folder.put("empty", "")}), 10, "empty");
  }
  check_failure(run_kvpack({"decode", kState, "-o", folder.file("x")}), 10, "gemma2.bin");

  Bytes state = must(engine::read_file(kState));
  state[4] = std::byte{9};
  check_failure(run_kvpack({"encode", folder.put("v9.bin", state), "-o", folder.file("x")}), 11, "version 9");
  check_failure(run_kvpack({"encode", sample_path("lighthouse.txt"), "-o", folder.file("x")}), 11, "not a KV cache");
  check_failure(run_kvpack({"encode", kModel, "-o", folder.file("x")}), 11, "GGUF model");
  const Bytes whole = must(engine::read_file(folder.archive()));
  Bytes newer = whole;
  ArchiveHeader header = decode_header(whole, whole.size()).value();
  header.required_features = 4;
  const Bytes encoded = encode_header(header);
  std::copy(encoded.begin(), encoded.end(), newer.begin());
  check_failure(run_kvpack({"inspect", folder.put("newer.kvp", newer)}), 11, "feature bit 2");

  Bytes damaged = whole;
  damaged[damaged.size() / 2] ^= std::byte{1};
  check_failure(run_kvpack({"verify", folder.put("damaged.kvp", damaged)}), 12, "damaged.kvp");
  check_failure(run_kvpack({"decode", folder.file("damaged.kvp"), "-o", folder.file("x")}), 12, "damaged.kvp");
  check_failure(run_kvpack({"verify", folder.put("cut.kvp", ByteSpan(whole).first(whole.size() - 1))}), 12, "cut.kvp");
  check_failure(run_kvpack({"encode", folder.put("cut.bin", ByteSpan(must(engine::read_file(kState))).first(100000)),
                            "-o", folder.file("x")}),
                12, "cut.bin");
  // The first bad one of several decides; all are looked at.
  const Outcome several =
      run_kvpack({"verify", folder.file("a.kvp"), folder.file("cut.kvp"), sample_path("lighthouse.txt")});
  CHECK(several.exit_code == 12);
  CHECK(contains(several.out, "a.kvp: ok"));
  CHECK(contains(several.err, "lighthouse.txt"));

  ByteWriter npy;
  npy.write_bytes(as_byte_span(std::string_view("\x93NUMPY\2\0", 8)));
  npy.write(uint32_t{1 << 20});
  npy.write_zeros(1 << 20);
  check_failure(run_kvpack({"encode", folder.put("limit.npy", npy.bytes()), "-o", folder.file("x")}), 13, "limit.npy");
  CHECK_FALSE(fs::exists(folder.file("x")));
}

TEST_CASE("cli: exit 30 for files that cannot be read or written, and nothing is left behind") {
  const Workplace folder;
  const std::string archive = folder.archive();
  const std::string fifo = folder.file("fifo");
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  for (const std::string& input : {folder.file("none"), folder.file("."), fifo}) {
    CAPTURE(input);
    check_failure(run_kvpack({"encode", input, "-o", folder.file("x")}), 30, input);
    check_failure(run_kvpack({"decode", input, "-o", folder.file("x")}), 30, input);
    check_failure(run_kvpack({"inspect", input}), 30, input);
    check_failure(run_kvpack({"verify", input}), 30, input);
    check_failure(run_kvpack({"diff", input, kState}), 30, input);
    check_failure(run_kvpack({"encode", kState, "-m", input, "-o", folder.file("x")}), 30, input);
  }
  check_failure(run_kvpack({"encode", kState, "-o", folder.file("no/such/folder/x")}), 30, "no/such/folder");
  check_failure(run_kvpack({"encode", kState, "-o", folder.file(".")}), 30, "folder");
  check_failure(run_kvpack({"encode", kState, "-o", "/dev/full"}), 30, "/dev/full");
  check_failure(run_kvpack({"decode", archive, "-o", "/dev/full"}), 30, "/dev/full");
  check_failure(run_kvpack({"encode", kState, "-o", "-"}, {.output = "/dev/full"}), 30, "standard output");
  check_failure(run_kvpack({"decode", archive, "-o", "-"}, {.output = "/dev/full"}), 30, "standard output");
  for (const char* verb : {"inspect", "verify"}) {
    check_failure(run_kvpack({verb, archive}, {.output = "/dev/full"}), 30, "standard output");
    check_failure(run_kvpack({verb, archive, "--json"}, {.output = "/dev/full"}), 30, "standard output");
  }
  check_failure(run_kvpack({"model", kModel}, {.output = "/dev/full"}), 30, "standard output");
  check_failure(run_kvpack({"version"}, {.output = "/dev/full"}), 30, "standard output");
  CHECK(folder.names() == std::vector<std::string>{"a.kvp", "fifo"});
}

TEST_CASE("cli: an existing output is kept without -f, replaced with it") {
  const Workplace folder;
  const std::string archive = folder.archive();
  const std::string kept = folder.put("kept", "precious");
  check_failure(run_kvpack({"encode", kState, "-o", kept}), 30, "use -f");
  check_failure(run_kvpack({"decode", archive, "-o", kept}), 30, "use -f");
  check_failure(run_kvpack({"model", kModel, "-o", kept}), 30, "use -f");
  CHECK(as_text(folder.get("kept")) == "precious");
  CHECK(run_kvpack({"decode", archive, "-q", "-f", "-o", kept}).exit_code == 0);
  CHECK(folder.get("kept") == must(engine::read_file(kState)));
  // A failure keeps the old file even with -f.
  const std::string old = folder.put("old", "precious");
  CHECK(run_kvpack({"decode", sample_path("lighthouse.txt"), "-f", "-o", old}).exit_code == 10);
  CHECK(as_text(folder.get("old")) == "precious");
}

TEST_CASE("cli: no input is ever overwritten, by whatever name") {
  const Workplace folder;
  const std::string state = folder.put("state.bin", must(engine::read_file(kState)));
  fs::create_symlink(state, folder.file("link.bin"));
  fs::create_hard_link(state, folder.file("hard.bin"));
  for (const std::string& output :
       {state, folder.file("link.bin"), folder.file("hard.bin"), folder.file("./state.bin")}) {
    CAPTURE(output);
    check_failure(run_kvpack({"encode", state, "-f", "-o", output}), 2, "is the input file");
    check_failure(run_kvpack({"encode", "-", "-f", "-o", output}, {.input = state}), 2, "is the input file");
    check_failure(run_kvpack({"encode", kState, "-m", state, "-f", "-o", output}), 2, "is the input file");
    check_failure(run_kvpack({"encode", kState, "--text", state, "-f", "-o", output}), 2, "is the input file");
  }
  check_failure(run_kvpack({"encode", state, "-o", "-"}, {.output = state}), 2, "is the input file");
  CHECK(folder.get("state.bin") == must(engine::read_file(kState)));
}

TEST_CASE("cli: a signal during a write leaves no file and ends the program as the signal does") {
  const Workplace folder;
  const std::string large = folder.put("large.npy", large_npy());
  const std::vector<std::string> before = folder.names();
  for (const int signal_number : {SIGTERM, SIGINT, SIGHUP}) {
    bool hit = false;
    for (int attempt = 0; attempt < 20 && !hit; ++attempt) {
      ProgramRun run({"encode", large, "-q", "--quality", "lossless", "-o", folder.file("x.kvp")});
      // The trial file that checks the target is gone at once; the real one stays for the whole write.
      int seen = 0;
      while (!run.ended() && seen < 3) {
        seen = folder.names().size() > before.size() ? seen + 1 : 0;
        ::usleep(500);
      }
      run.send(signal_number);
      const Outcome outcome = run.finish();
      hit = outcome.exit_code == 128 + signal_number;
      if (!hit) CHECK(outcome.exit_code == 0);  // too late: written as a whole
      CHECK(fs::exists(folder.file("x.kvp")) == !hit);
      fs::remove(folder.file("x.kvp"));
      CHECK(folder.names() == before);
    }
    CHECK(hit);
  }
}

TEST_CASE("cli: colours only on a terminal, unless NO_COLOR, TERM=dumb or --color say otherwise") {
  const auto colored = [](std::vector<std::string> arguments, const RunSettings& settings) {
    arguments.insert(arguments.end(), {"inspect", "/no/such/file"});
    const Outcome outcome = run_kvpack(arguments, settings);
    CHECK(outcome.exit_code == 30);
    CHECK(contains(outcome.err, "/no/such/file"));
    return contains(outcome.err, "\x1b[");
  };
  CHECK_FALSE(colored({}, {}));
  CHECK(colored({"--color", "always"}, {}));
  CHECK(colored({"--color=always"}, {.environment = {"NO_COLOR=1"}}));
  CHECK(colored({}, {.terminal = true}));
  CHECK_FALSE(colored({}, {.terminal = true, .environment = {"NO_COLOR=1"}}));
  CHECK(colored({}, {.terminal = true, .environment = {"NO_COLOR="}}));
  CHECK_FALSE(colored({}, {.terminal = true, .environment = {"TERM=dumb"}}));
  CHECK_FALSE(colored({"--color", "never"}, {.terminal = true}));
  check_failure(run_kvpack({"--color", "blue", "version"}), 2, "auto, always, never");
}

TEST_CASE("cli: what a file says cannot steer the terminal") {
  const Workplace folder;
  OpenedArchive forged(folder.get((folder.archive(), "a.kvp")));
  std::string identity(as_text(forged.sections[SectionKind::kIdentity]));
  const size_t at = identity.find("llama.cpp");
  REQUIRE(at != std::string::npos);
  identity.replace(at, 9, "\\u001b[2J\\u0007\\u202e\\u009b31mevil");
  forged.sections[SectionKind::kIdentity] = Bytes(as_byte_span(identity).begin(), as_byte_span(identity).end());
  const std::string path = folder.put("evil.kvp", *forged.write());
  const auto harmless = [](const std::string& text) {
    return std::none_of(text.begin(), text.end(), [](char c) { return c == '\x1b' || c == '\a'; }) &&
           !contains(text, "\xe2\x80\xae") && !contains(text, "\xc2\x9b");
  };
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"inspect", path}, {"inspect", "--layers", path}, {"inspect", "--json", path}}) {
    const Outcome shown = run_kvpack(arguments);
    CHECK(shown.exit_code == 0);
    CHECK(contains(shown.out, "evil"));
    CHECK(harmless(shown.out + shown.err));
  }
  CHECK(contains(run_kvpack({"inspect", path}).out, "\\x1b[2J"));
  const Outcome missing = run_kvpack({"inspect", "no\x1b[31msuch\nfile"});
  CHECK(missing.exit_code == 30);
  CHECK(harmless(missing.err));
}

TEST_CASE("cli: every --json is JSON, on standard output alone") {
  const Workplace folder;
  const std::string archive = folder.archive();
  const auto json_of = [](const std::vector<std::string>& arguments, int code = 0) {
    const Outcome outcome = run_kvpack(arguments);
    CAPTURE(outcome.out);
    CHECK(outcome.exit_code == code);
    nlohmann::json json = nlohmann::json::parse(outcome.out, nullptr, false);
    CHECK_FALSE(json.is_discarded());
    return json;
  };
  const auto encoded = json_of({"encode", kState, "--json", "-o", folder.file("b.kvp")});
  CHECK(encoded["input"]["bytes"] == fs::file_size(kState));
  CHECK(encoded["levels"].size() == 2);
  CHECK(json_of({"decode", archive, "--json", "-o", folder.file("b.bin")})["output"]["bytes"] == fs::file_size(kState));
  const auto inspected = json_of({"inspect", archive, "--json"});
  CHECK(inspected["identity"]["lossless"] == true);
  CHECK(inspected["bytes"] == fs::file_size(archive));
  CHECK(inspected["planes"].size() > 1);
  CHECK(json_of({"verify", archive, "--json"})["archives"][0]["ok"] == true);
  const auto bad = json_of({"verify", kState, archive, "--json"}, 10);
  CHECK(bad["archives"][0]["ok"] == false);
  CHECK(bad["archives"][1]["ok"] == true);
  CHECK(json_of({"diff", kState, archive, "--json"})["total"]["differing"] == 0);
  CHECK(json_of({"diff", kState, folder.file("b.kvp"), "--json"})["total"]["relative_l2"] > 0.001);
  CHECK(json_of({"model", kModel})["architecture"] == "llama");
  // An archive and JSON cannot both be standard output: the report goes to standard error.
  const Outcome piped = run_kvpack({"decode", archive, "--json", "-o", "-"});
  CHECK(piped.out == as_text(must(engine::read_file(kState))));
  CHECK_FALSE(nlohmann::json::parse(piped.err, nullptr, false).is_discarded());
}

TEST_CASE("cli: conversions on decode") {
  const Workplace folder;
  const std::string state = sample_path("llama/lighthouse-4-streams.slot.bin");
  const std::string archive = folder.file("s.kvp");
  REQUIRE(run_kvpack({"encode", state, "-m", kModel, "--quality", "lossless", "-q", "-o", archive}).exit_code == 0);
  const auto converts = [&](std::vector<std::string> options, std::string_view expected) {
    options.insert(options.begin(), {"decode", archive, "-q", "-f", "-o", folder.file("out")});
    const Outcome outcome = run_kvpack(options);
    CAPTURE(outcome.err);
    REQUIRE(outcome.exit_code == 0);
    const KvFile file = read_kv(folder.get("out"));
    CAPTURE(file.description);
    CHECK(contains(file.description, expected));
    return file;
  };
  converts({}, "4 streams");
  CHECK_FALSE(contains(converts({"--streams", "1"}, "unified").description, "streams"));
  converts({"--v-layout", "transposed"}, "V f16 transposed");
  converts({"--cache-type-k", "q8_0", "--cache-type-v", "f32"}, "K q8_0, V f32");
  converts({"--payload", "plain"}, "plain payload");
  converts({"--to", "safetensors"}, "safetensors, DynamicCache, 8 tensors, 1283 tokens");
  converts({"--to", "npy", "--dtype", "bf16"}, "npy");
  CHECK(converts({"--tokens", "0:100"}, "100 cells").tokens.size() == 100);
  CHECK(
      converts({"--to", "safetensors", "--tokens", "10:20", "--layers", "1:3"}, "4 tensors, 10 tokens").tokens.size() ==
      10);
  // To transformers and back to llama.cpp: the same keys, though they lie in another order in between.
  converts({"--to", "safetensors"}, "safetensors");
  fs::rename(folder.file("out"), folder.file("t.safetensors"));
  const std::string other = folder.file("t.kvp");
  REQUIRE(run_kvpack({"encode", folder.file("t.safetensors"), "-m", kModel, "--quality", "lossless", "-q", "-o", other})
              .exit_code == 0);
  REQUIRE(run_kvpack({"decode", other, "--to", "llama", "-q", "-f", "-o", folder.file("t.bin")}).exit_code == 0);
  const auto differing = [&](const std::string& a, const std::string& b) {
    return nlohmann::json::parse(run_kvpack({"diff", a, b, "-m", kModel, "--json"}).out)["total_k"]["differing"];
  };
  CHECK(differing(state, folder.file("t.bin")) == 0);
  REQUIRE(run_kvpack({"encode", state, "--quality", "lossless", "-q", "-f", "-o", other}).exit_code == 0);
  CHECK(contains(run_kvpack({"decode", other, "--to", "safetensors", "-f", "-o", folder.file("t")}).err,
                 "channel order"));
  check_failure(run_kvpack({"decode", archive, "--layers", "1:3", "-f", "-o", folder.file("out")}), 11,
                "all layers only");
  check_failure(run_kvpack({"decode", archive, "--to", "npy", "--streams", "2", "-f", "-o", folder.file("out")}), 2,
                "npy");
  check_failure(run_kvpack({"decode", archive, "--dtype", "f32", "-f", "-o", folder.file("out")}), 2, "--dtype");
  check_failure(run_kvpack({"decode", archive, "--swa-guard-cell", "-f", "-o", folder.file("out")}), 2,
                "sliding-window");
}

TEST_CASE("cli: the guard cell comes by default where it is possible and harmless, and is reported as it is") {
  const Workplace folder;
  // llama-server's payload; a window of 4 of 10 tokens, and one that leaves no room (9 of 10).
  const auto sliding = [](int32_t first_in_window) {
    BlockFields full, window;
    full.positions.clear(), window.positions.clear();
    for (int32_t p = 0; p < 10; ++p) full.positions.push_back(p);
    for (int32_t p = first_in_window; p < 10; ++p) window.positions.push_back(p);
    return StateBuilder().sequence_head({-1, 1, 2, 7, 8, 0}).block(full).block(window).take();
  };
  const auto window_cells_of = [&](const std::string& quality, int32_t first_in_window, const char* option) {
    const std::string state = folder.put("w.bin", sliding(first_in_window));
    REQUIRE(run_kvpack({"encode", state, "--quality", quality, "-f", "-o", folder.file("w.kvp")}).exit_code == 0);
    std::vector<std::string> arguments = {"decode", folder.file("w.kvp"), "-f", "-o", folder.file("back.bin")};
    if (*option != '\0') arguments.push_back(option);
    const Outcome outcome = run_kvpack(arguments);
    REQUIRE_MESSAGE(outcome.exit_code == 0, outcome.err);
    const size_t cells = read_kv(folder.get("back.bin")).tensor.token_sets[1].positions.size();
    CHECK(contains(outcome.err, "added the guard cell") == (cells > static_cast<size_t>(10 - first_in_window)));
    CHECK(contains(run_kvpack({"inspect", folder.file("w.kvp")}).out, "not offered") == (first_in_window < 2));
    return cells;
  };
  CHECK(window_cells_of("medium", 6, "") == 5);
  CHECK(window_cells_of("medium", 6, "--no-swa-guard-cell") == 4);
  CHECK(window_cells_of("lossless", 6, "") == 4);
  CHECK(window_cells_of("lossless", 6, "--swa-guard-cell") == 5);
  CHECK(window_cells_of("medium", 2, "") == 9);
  CHECK(window_cells_of("medium", 1, "") == 9);  // no room: nothing is added, and nothing is said to be
  check_failure(run_kvpack({"decode", folder.file("w.kvp"), "--swa-guard-cell", "-f", "-o", folder.file("x")}), 2,
                "--swa-guard-cell cannot be had");
}

TEST_CASE("cli: completions and the version") {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Outcome outcome = run_kvpack({"completion", shell});
    CHECK(outcome.exit_code == 0);
    CHECK(contains(outcome.out, "encode"));
    CHECK(contains(outcome.out, "quality"));
  }
  check_failure(run_kvpack({"completion", "cmd"}), 2, "bash");
  CHECK(run_kvpack({"--version"}).out.starts_with("kvpack 0."));
  CHECK(contains(run_kvpack({"version"}).out, "zstd"));
}
