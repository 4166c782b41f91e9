// SPDX-License-Identifier: Apache-2.0
// .kvprofile files: what is written is read, and what is damaged is refused.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "codec/profile_file.h"
#include "formats/byte_io.h"

namespace kvpack::test {
namespace {

HeadMatrix some_basis(uint32_t dim, int seed) {
  HeadMatrix basis;
  basis.components = dim;
  for (uint32_t k = 0; k < dim; ++k) {
    basis.scale.push_back(0.25f * static_cast<float>(k + 1));
    for (uint32_t d = 0; d < dim; ++d) basis.rows.push_back(static_cast<int8_t>((seed + 7 * k + 3 * d) % 255 - 127));
  }
  return basis;
}

Profile some_profile() {
  Profile profile;
  profile.model_name = "a \"model\"";
  profile.model_architecture = "llama";
  profile.model_fingerprint = "gguf:0123";
  profile.method = "by hand";
  for (uint32_t layer : {0u, 2u, 10u}) {
    for (Side side : {Side::kKey, Side::kValue}) {
      ProfilePlane plane;
      plane.layer = layer;
      plane.side = side;
      plane.kv_heads = 2;
      plane.head_dim = side == Side::kKey ? 4 : 3;
      plane.mean.assign(size_t{2} * plane.head_dim, 1.5f);
      plane.deviation.assign(size_t{2} * plane.head_dim, 0.5f);
      plane.sensitivity = {1, 2};
      for (int head = 0; head < 2; ++head) plane.basis.push_back(some_basis(plane.head_dim, head));
      profile.planes.push_back(std::move(plane));
    }
    if (layer == 2) continue;  // not every layer needs token weights
    TokenWeightModel model;
    model.layer = layer;
    model.kv_heads = 2;
    model.head_dim = 4;
    model.weights.assign(2 * 9, 0.125f);
    profile.token_weights.push_back(std::move(model));
  }
  return profile;
}

Bytes replaced(const Bytes& bytes, std::string_view from, std::string_view to) {
  REQUIRE(from.size() == to.size());
  Bytes changed = bytes;
  const size_t at = as_text(bytes).find(from);
  REQUIRE(at != std::string_view::npos);
  std::memcpy(changed.data() + at, to.data(), to.size());
  return changed;
}

TEST_CASE("a profile comes back as it was written, to the same bytes") {
  const Profile profile = some_profile();
  const Bytes bytes = write_profile(profile);
  const auto read = read_profile(bytes, "p");
  REQUIRE_MESSAGE(read.ok(), read.error().message);
  CHECK(read->model_name == profile.model_name);
  CHECK(read->model_architecture == profile.model_architecture);
  CHECK(read->model_fingerprint == profile.model_fingerprint);
  CHECK(read->method == profile.method);
  REQUIRE(read->planes.size() == 6);
  CHECK(read->planes[5].layer == 10);  // layers by number, not by name
  CHECK(read->plane(2, Side::kValue)->basis[1] == profile.planes[3].basis[1]);
  CHECK(read->plane(2, Side::kKey)->mean == profile.planes[2].mean);
  CHECK(read->plane(1, Side::kKey) == nullptr);
  CHECK(read->token_model(2) == nullptr);
  CHECK(read->token_model(10)->weights == profile.token_weights[1].weights);
  CHECK(write_profile(*read) == bytes);
  CHECK(profile_hash(bytes).size() == 32);
}

TEST_CASE("a profile cut anywhere is refused, and damage never does harm") {
  const Bytes bytes = write_profile(some_profile());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto read = read_profile(ByteSpan(bytes).first(size), "p");
    REQUIRE_FALSE(read.ok());
    REQUIRE(read.error().message.starts_with("p: "));
  }
  for (size_t at = 0; at < bytes.size(); ++at) {
    Bytes changed = bytes;
    changed[at] ^= std::byte{0x41};
    const auto read = read_profile(changed, "p");
    if (!read.ok()) continue;
    for (const ProfilePlane& plane : read->planes) {
      REQUIRE(plane.basis.size() == plane.kv_heads);
      for (float mean : plane.mean) REQUIRE(std::isfinite(mean));
      for (const HeadMatrix& basis : plane.basis) {
        for (float scale : basis.scale) REQUIRE(scale > 0);
      }
    }
  }
  Bytes longer = bytes;
  longer.push_back(std::byte{0});
  CHECK(read_profile(longer, "p").error().kind == ErrorKind::kCorrupt);
}

TEST_CASE("what is not a profile of this version says so") {
  const Bytes bytes = write_profile(some_profile());
  const auto newer = read_profile(replaced(bytes, R"("kvpack.profile":"1")", R"("kvpack.profile":"2")"), "p");
  REQUIRE_FALSE(newer.ok());
  CHECK(newer.error().kind == ErrorKind::kUnsupported);
  CHECK(newer.error().message.find("version '2'") != std::string::npos);
  const auto other = read_profile(replaced(bytes, "kvpack.profile", "kvpack.prof1le"), "p");
  REQUIRE_FALSE(other.ok());
  CHECK(other.error().kind == ErrorKind::kNotKvpack);
  CHECK(read_profile(as_byte_span("a text, and no profile"), "p").error().kind == ErrorKind::kNotKvpack);
  CHECK(read_profile(replaced(bytes, "layers.0.value.mean", "layers.0.value.naem"), "p").error().kind ==
        ErrorKind::kCorrupt);
  CHECK(read_profile(replaced(bytes, "layers.10.token_weights", "layers.11.token_weights"), "p").error().kind ==
        ErrorKind::kCorrupt);
}

TEST_CASE("numbers that no profile can have are refused") {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -1.0f, 0.0f}) {
    Profile profile = some_profile();
    profile.planes[1].sensitivity[0] = bad;
    CHECK(read_profile(write_profile(profile), "p").error().kind == ErrorKind::kCorrupt);
  }
  Profile profile = some_profile();
  profile.token_weights[0].weights[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(read_profile(write_profile(profile), "p").error().kind == ErrorKind::kCorrupt);
}

}  // namespace
}  // namespace kvpack::test
