// SPDX-License-Identifier: Apache-2.0
// Profiles in use: archives that need one, where the program finds it, and what happens without it.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "codec/frame.h"
#include "codec/profile_file.h"
#include "codec/tile.h"
#include "tests/forged_archive.h"
#include "tests/program_run.h"
#include "tests/random_kv.h"
#include "tests/sample_files.h"

namespace kvpack::test {
namespace {

namespace fs = std::filesystem;

const std::string kState = sample_path("llama/lighthouse-f16.slot.bin");
const std::string kModel = sample_path("nano-f16.gguf");
const std::string kProfile = sample_path("profiles/nano.kvprofile");
const std::string kOtherProfile = sample_path("profiles/smollm2-135m.kvprofile");

// A real cache, its model and the model's profile.
struct Nano {
  ModelFacts facts = nano_facts();
  KvFile file = read_kv(read_sample("llama/lighthouse-f16.slot.bin"), &facts);
  Bytes profile_bytes = read_sample("profiles/nano.kvprofile");
  Profile profile = must(read_profile(profile_bytes, "nano.kvprofile"));

  Bytes encode(const Profile* with, bool embed = false) const {
    EncodeOptions options;
    options.profile = with;
    options.profile_hash = profile_hash(profile_bytes);
    if (embed) options.embedded_profile = profile_bytes;
    MemorySink sink;
    must(encode_archive(file, &facts, options, sink));
    return sink.take();
  }
};

struct Opened {
  Bytes bytes;  // which the source only views
  MemorySource source;
  ArchiveReader reader;
  explicit Opened(Bytes archive)
      : bytes(std::move(archive)), source(bytes), reader(must(ArchiveReader::open(source))) {}
};

DecodeOptions decode_with(const Profile* profile) {
  DecodeOptions options;
  options.profile = profile;
  return options;
}

TEST_CASE("an archive names its profile by hash, and decodes with that profile only") {
  const Nano nano;
  const Opened archive(nano.encode(&nano.profile));
  const ArchiveIdentity identity = must(read_identity(archive.reader));
  CHECK(identity.profile_hash == profile_hash(nano.profile_bytes));
  CHECK_FALSE(archive.reader.has_section(SectionKind::kProfile));
  const KvTensor decoded = must(decode_tensor(archive.reader, decode_with(&nano.profile), nullptr));
  CHECK(relative_error(nano.file.tensor, decoded) < 0.5);
  check_error(decode_tensor(archive.reader, {}, nullptr), ErrorKind::kUnsupported, "needs a profile");
  const Profile other = must(read_profile(read_sample("profiles/smollm2-135m.kvprofile"), "other"));
  check_error(decode_tensor(archive.reader, decode_with(&other), nullptr), ErrorKind::kCorrupt, "the profile has");
}

TEST_CASE("with its profile a cache takes fewer bytes") {
  const Nano nano;
  CHECK(nano.encode(&nano.profile).size() < 0.7 * nano.encode(nullptr).size());
}

TEST_CASE("a profile of other shapes is not used, and the archive then needs none") {
  const Nano nano;
  const Profile other = must(read_profile(read_sample("profiles/smollm2-135m.kvprofile"), "other"));
  const Bytes bytes = nano.encode(&other);
  CHECK(bytes == nano.encode(nullptr));
  const Opened archive(bytes);
  CHECK(must(read_identity(archive.reader)).profile_hash.empty());
  must(decode_tensor(archive.reader, {}, nullptr));
}

TEST_CASE("an embedded profile is carried whole, and a damaged one is refused") {
  const Nano nano;
  const Bytes bytes = nano.encode(&nano.profile, /*embed=*/true);
  const Opened archive(bytes);
  const Profile carried = must(read_embedded_profile(archive.reader));
  CHECK(write_profile(carried) == nano.profile_bytes);
  must(decode_tensor(archive.reader, decode_with(&carried), nullptr));
  OpenedArchive forged(bytes);
  forged.sections[SectionKind::kProfile].back() ^= std::byte{1};
  const Bytes damaged = *forged.write();
  check_error(read_embedded_profile(Opened(damaged).reader), ErrorKind::kCorrupt, "embedded profile");
}

TEST_CASE("ranges of layers and positions decode as the whole does, where values follow their keys' token classes") {
  const Nano nano;
  const Opened archive(nano.encode(&nano.profile));
  const KvTensor whole = must(decode_tensor(archive.reader, decode_with(&nano.profile), nullptr));
  DecodeOptions options = decode_with(&nano.profile);
  options.layers = {1, 3};
  options.positions = {100, 300};
  const KvTensor part = must(decode_tensor(archive.reader, options, nullptr));
  REQUIRE(part.planes.size() == 4);
  for (const KvPlane& plane : part.planes) {
    const KvView& view = plane.view;
    Bytes expected(view.tokens * view.packed_row_bytes()), found(expected.size());
    load_raw(whole.planes[plane.layer * 2 + static_cast<uint32_t>(plane.side)].view, 100, view.tokens, expected.data());
    load_raw(view, 0, view.tokens, found.data());
    CHECK(found == expected);
  }
}

// A value tile decoded with nothing of its key tile but the classes.
TEST_CASE("a value tile decodes alone, given the token classes of its key tile") {
  const Nano nano;
  const Opened archive(nano.encode(&nano.profile));
  const ArchiveShape& shape = archive.reader.shape();
  const Bytes blobs = must(archive.reader.section(SectionKind::kParameters));
  ByteReader in(blobs);
  std::vector<PlaneParameters> parameters;
  for (uint32_t p = 0; p < 2; ++p) {
    const uint64_t size = must(in.read_varint("size"));
    parameters.push_back(must(read_plane_parameters(must(in.take(size, "parameters")), shape.planes[p],
                                                    nano.profile.plane(0, shape.planes[p].side))));
  }
  const auto positions = std::span(shape.token_sets[0].positions).first(archive.reader.directory().chunks[0].tokens);
  const TileContext key{shape.planes[0], parameters[0], &shape.ropes[0], positions, {}};
  const auto classes = must(read_tile_token_classes(key, must(archive.reader.tile(0, 0, 0))));
  REQUIRE(std::any_of(classes.begin(), classes.end(), [](int8_t c) { return c != 0; }));
  TileContext value{shape.planes[1], parameters[1], nullptr, positions, classes};
  std::vector<Bytes> levels;
  for (uint32_t level = 0; level < archive.reader.directory().levels; ++level) {
    levels.push_back(must(archive.reader.tile(level, 0, 1)));
  }
  const std::vector<ByteSpan> spans(levels.begin(), levels.end());
  const auto tokens = static_cast<uint32_t>(positions.size());
  Bytes alone(tokens * make_row_view<std::byte>(nullptr, DType::kF16, tokens, 2, 64).packed_row_bytes());
  const MutableKvView rows = make_row_view(alone.data(), DType::kF16, tokens, 2, 64);
  must(decode_tile(value, spans, rows));
  const KvTensor whole = must(decode_tensor(archive.reader, decode_with(&nano.profile), nullptr));
  Bytes expected(alone.size());
  load_raw(whole.planes[1].view, 0, tokens, expected.data());
  CHECK(alone == expected);
  // Without them it is refused or comes out otherwise: it does follow them.
  value.key_classes = {};
  CHECK((!decode_tile(value, spans, rows).ok() || alone != expected));
}

TEST_CASE("a damaged key tile is an error that names it, and never harms the decoder of its values") {
  const Nano nano;
  const OpenedArchive whole(nano.encode(&nano.profile));
  const Bytes& key = whole.tiles[0][0][0];
  for (size_t size = 0; size < key.size(); size += 1 + key.size() / 50) {
    OpenedArchive forged = whole;
    forged.tiles[0][0][0].resize(size);
    const Opened archive(*forged.write());
    const auto decoded = decode_tensor(archive.reader, decode_with(&nano.profile), nullptr);
    REQUIRE_FALSE(decoded.ok());
    CHECK(decoded.error().message.find("chunk 0, layer 0 K") != std::string::npos);
  }
  for (size_t at = 0; at < std::min<size_t>(key.size(), 64); ++at) {  // where the classes are
    OpenedArchive forged = whole;
    forged.tiles[0][0][0][at] ^= std::byte{0x55};
    const Opened archive(*forged.write());
    const auto decoded = decode_tensor(archive.reader, decode_with(&nano.profile), nullptr);  // any answer, no crash
    CHECK((decoded.ok() || decoded.error().message.find("chunk 0, layer 0") != std::string::npos));
  }
}

TEST_CASE("frames know nothing of profiles: each decodes alone") {
  const Nano nano;
  KvTensor chunk = nano.file.tensor;
  for (KvPlane& plane : chunk.planes) plane.view = slice_tokens(plane.view, 0, 64);
  chunk.token_sets[0].positions.resize(64);
  if (!chunk.token_sets[0].row_of_token.empty()) chunk.token_sets[0].row_of_token.resize(64);
  const Bytes frame = must(encode_frame(chunk, nano.facts.ropes, {}));
  const FrameInfo info = must(read_frame_info(frame));
  std::vector<Bytes> storage;
  std::vector<MutableKvView> views;
  for (const PlaneShape& plane : info.shape.planes) {
    storage.emplace_back(size_t{64} * plane.channels() * 2);
    views.push_back(make_row_view(storage.back().data(), DType::kF16, 64, plane.kv_heads, plane.head_dim));
  }
  must(decode_frame(frame, info.levels - 1, views));
}

// The program, with no profile installed but what a test puts there.
class Workplace : public engine::ScratchFolder {
 public:
  Outcome run(const std::vector<std::string>& arguments) const {
    return run_kvpack(arguments, {.environment = {"XDG_DATA_HOME=" + file("data")}});
  }
  // An archive that needs the profile.
  std::string archive(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"encode", kState, "-m", kModel, "--profile",
                                          kProfile, "-q",   "-f", "-o",   file("a.kvp")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome made = run(arguments);
    REQUIRE_MESSAGE(made.exit_code == 0, made.err);
    return file("a.kvp");
  }
  void install(const std::string& from) const {
    fs::create_directories(file("data/kvpack/profiles"));
    fs::copy_file(from, file("data/kvpack/profiles/" + fs::path(from).filename().string()));
  }
};

void check_refused(const Outcome& outcome, int code, std::string_view text) {
  CAPTURE(outcome.err);
  CHECK(outcome.exit_code == code);
  CHECK(outcome.err.starts_with("kvpack: error: "));
  CHECK(outcome.err.find("error: ", 15) == std::string::npos);
  CHECK(outcome.err.find(text) != std::string::npos);
}

TEST_CASE("cli: every verb that decodes says which profile is missing, and takes it by --profile") {
  const Workplace folder;
  const std::string archive = folder.archive();
  const std::string hash = profile_hash(read_sample("profiles/nano.kvprofile"));
  const std::vector<std::vector<std::string>> verbs = {
      {"decode", archive, "-q", "-f", "-o", folder.file("b.bin")}, {"verify", archive}, {"diff", kState, archive}};
  for (std::vector<std::string> verb : verbs) {
    CAPTURE(verb[0]);
    check_refused(folder.run(verb), 2, hash);
    verb.insert(verb.end(), {"--profile", kOtherProfile});
    check_refused(folder.run(verb), 2, hash);
    verb.back() = kProfile;
    CHECK(folder.run(verb).exit_code == 0);
  }
  CHECK(folder.run({"verify", "--fast", archive}).exit_code == 0);
  CHECK(folder.run({"inspect", archive}).out.find(hash) != std::string::npos);
  const auto json = nlohmann::json::parse(folder.run({"inspect", archive, "--json"}).out);
  CHECK(json["profile"]["hash"] == hash);
  CHECK(json["profile"]["embedded"] == false);
}

TEST_CASE("cli: a profile lies beside the model, or is installed") {
  const Workplace folder;
  const std::string model = folder.file("m.json");
  REQUIRE(folder.run({"model", kModel, "-o", model}).exit_code == 0);
  const auto needs_profile = [&](const std::string& name) {
    const Outcome made = folder.run({"encode", kState, "-m", model, "-q", "-f", "-o", folder.file(name)});
    REQUIRE_MESSAGE(made.exit_code == 0, made.err);
    return !nlohmann::json::parse(folder.run({"inspect", folder.file(name), "--json"}).out)["profile"].is_null();
  };
  CHECK_FALSE(needs_profile("none.kvp"));
  const std::string by_option = folder.archive();

  SUBCASE("beside") {
    fs::copy_file(kProfile, folder.file("m.kvprofile"));
    CHECK(needs_profile("beside.kvp"));
    CHECK(folder.run({"verify", by_option}).exit_code == 2);
    CHECK(folder.run({"verify", by_option, "-m", model}).exit_code == 0);
    CHECK(folder.run({"diff", kState, by_option, "-m", model}).exit_code == 0);
    CHECK(folder.run({"decode", by_option, "-m", model, "-o", folder.file("b.bin")}).exit_code == 0);
  }
  SUBCASE("installed, among others") {
    folder.install(kOtherProfile);
    CHECK_FALSE(needs_profile("other.kvp"));
    folder.install(kProfile);
    CHECK(needs_profile("installed.kvp"));
    CHECK(folder.run({"verify", by_option}).exit_code == 0);
    CHECK(folder.run({"diff", kState, by_option}).exit_code == 0);
    CHECK(folder.run({"decode", by_option, "-o", folder.file("b.bin")}).exit_code == 0);
  }
}

TEST_CASE("cli: an archive with its profile inside needs nothing else, unless that is damaged") {
  const Workplace folder;
  const std::string archive = folder.archive({"--embed-profile"});
  for (const auto& verb : {std::vector<std::string>{"verify", archive},
                           {"diff", kState, archive},
                           {"decode", archive, "-o", folder.file("b.bin")}}) {
    CHECK(folder.run(verb).exit_code == 0);
  }
  OpenedArchive forged(must(engine::read_file(archive)));
  forged.sections[SectionKind::kProfile].back() ^= std::byte{1};
  must(engine::write_file(folder.file("forged.kvp"), *forged.write()));
  check_refused(folder.run({"verify", folder.file("forged.kvp")}), 12, "embedded profile");
}

TEST_CASE("cli: another model's profile, a profile without a model, and a file that is none are refused") {
  const Workplace folder;
  const auto encode = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"encode", kState, "-f", "-o", folder.file("x.kvp")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return folder.run(arguments);
  };
  check_refused(encode({"-m", kModel, "--profile", kOtherProfile}), 2, "fingerprint");
  check_refused(encode({"--profile", kProfile}), 2, "--model");
  check_refused(encode({"-m", kModel, "--profile", kModel}), 10, "nano-f16.gguf");
  check_refused(encode({"-m", kModel, "--embed-profile"}), 2, "no profile");
  CHECK_FALSE(fs::exists(folder.file("x.kvp")));
}

TEST_CASE("the shipped profile of SmolLM2 fits the shipped model and cache") {
  const Workplace folder;
  const Outcome made =
      folder.run({"encode", sample_path("smollm2-harbour.slot.bin"), "-m", sample_path("smollm2-135m.model.json"),
                  "--profile", kOtherProfile, "--json", "-o", folder.file("s.kvp")});
  REQUIRE_MESSAGE(made.exit_code == 0, made.err);
  CHECK(nlohmann::json::parse(made.out)["bits_per_value"] < 1.6);
}

}  // namespace
}  // namespace kvpack::test
