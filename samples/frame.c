/* SPDX-License-Identifier: Apache-2.0
 * One chunk of KV through the C interface: 256 tokens of one layer, f32 keys with RoPE and values, become a frame (one
 * buffer that decodes alone) and come back. The values here are made up, smooth along the tokens as real ones are;
 * exits with 0 if they come back as close as `high` should be.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "codec/kvpack.h"

enum { kTokens = 256, kHeads = 2, kHeadDim = 64, kPairs = kHeadDim / 2, kRow = kHeads * kHeadDim };
static const uint64_t kMaxMemoryBytes = 256u << 20;

static float keys[kTokens][kHeads][kHeadDim], values[kTokens][kHeads][kHeadDim];
static float keys_back[kTokens][kHeads][kHeadDim], values_back[kTokens][kHeads][kHeadDim];
static int32_t positions[kTokens];
static double inv_freq[kPairs];

static double noise(void) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return state / 4294967296.0 - 0.5;
}

/* Keys as a model's cache holds them: a channel mean and some noise, then turned by the token's position. */
static void fill(void) {
  for (int j = 0; j < kPairs; ++j) inv_freq[j] = pow(10000.0, -2.0 * j / kHeadDim);
  for (int t = 0; t < kTokens; ++t) {
    positions[t] = t;
    for (int h = 0; h < kHeads; ++h) {
      for (int j = 0; j < kPairs; ++j) {
        const double a = 3 * cos(j) + noise(), b = 3 * sin(j) + noise(), angle = t * inv_freq[j];
        keys[t][h][j] = (float)(a * cos(angle) - b * sin(angle));
        keys[t][h][j + kPairs] = (float)(a * sin(angle) + b * cos(angle));
        values[t][h][j] = (float)noise();
        values[t][h][j + kPairs] = (float)(0.1 * noise());
      }
    }
  }
}

static kvpack_plane plane(uint32_t side, void* data) {
  kvpack_plane p = {0};
  p.side = side;
  p.kv_heads = kHeads;
  p.head_dim = kHeadDim;
  p.dtype = KVPACK_F32;
  p.rope = side == KVPACK_KEY ? 0 : -1;
  p.data = data;
  p.token_stride = kRow * sizeof(float);
  p.head_stride = kHeadDim * sizeof(float);
  p.channel_stride = sizeof(float);
  return p;
}

static double relative_error(const float* a, const float* b) {
  double difference = 0, total = 0;
  for (size_t i = 0; i < (size_t)kTokens * kRow; ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    total += a[i] * a[i];
  }
  return sqrt(difference / total);
}

static int check(int status, const char* what) {
  if (status == KVPACK_OK) return 1;
  fprintf(stderr, "frame: %s: %s: %s\n", what, kvpack_status_name(status), kvpack_last_error());
  return 0;
}

int main(void) {
  fill();
  const kvpack_rope rope = {KVPACK_ROPE_NEOX, 0, kPairs, 1.0, inv_freq};
  const kvpack_plane planes[2] = {plane(KVPACK_KEY, keys), plane(KVPACK_VALUE, values)};
  const kvpack_chunk chunk = {kTokens, 2, 1, positions, planes, &rope};

  uint64_t bound = 0, memory = 0;
  if (!check(kvpack_frame_bound(&chunk, &bound, &memory), "bound")) return 1;
  void* frame = malloc((size_t)bound);
  if (frame == NULL) return 1;
  size_t frame_bytes = 0;
  const int encoded = kvpack_encode_frame(&chunk, KVPACK_HIGH, kMaxMemoryBytes, frame, (size_t)bound, &frame_bytes);
  if (!check(encoded, "encode")) return 1;
  printf("%zu bytes of keys and values -> a frame of %zu bytes\n", sizeof keys + sizeof values, frame_bytes);

  /* Elsewhere, later: the frame says what it holds before anything is allocated for it. */
  kvpack_frame_info info;
  if (!check(kvpack_read_frame_info(frame, frame_bytes, &info), "info")) return 1;
  printf("%u tokens, %u planes, %u levels, %llu bytes of memory to decode\n", info.tokens, info.n_planes, info.levels,
         (unsigned long long)info.memory_bytes);
  const kvpack_plane back[2] = {plane(KVPACK_KEY, keys_back), plane(KVPACK_VALUE, values_back)};
  const int decoded = kvpack_decode_frame(frame, frame_bytes, UINT32_MAX, kMaxMemoryBytes, back, 2, NULL);
  free(frame);
  if (!check(decoded, "decode")) return 1;

  const double key_error = relative_error(&keys[0][0][0], &keys_back[0][0][0]);
  const double value_error = relative_error(&values[0][0][0], &values_back[0][0][0]);
  printf("relative error: keys %.4f, values %.4f\n", key_error, value_error);
  return key_error < 0.1 && value_error < 0.1 ? 0 : 1;
}
