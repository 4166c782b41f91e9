/* SPDX-License-Identifier: Apache-2.0
 * kvpack from C and from other languages: one chunk of KV to a self-delimiting frame and back.
 *
 * Plain pointers, sizes and status codes. No exception leaves a function, nothing is kept between calls, calls are
 * thread-safe, and working memory is bounded by max_memory_bytes. Values are little-endian as stored; strides are in
 * bytes.
 */
#ifndef KVPACK_H
#define KVPACK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kvpack_status {
  KVPACK_OK = 0,
  KVPACK_ERROR = 1, /* anything else */
  KVPACK_INVALID_ARGUMENT = 2,
  KVPACK_BUFFER_TOO_SMALL = 3, /* *written says how much is needed */
  KVPACK_NOT_KVPACK = 10,
  KVPACK_UNSUPPORTED = 11,
  KVPACK_CORRUPT = 12, /* damaged or truncated */
  KVPACK_LIMIT = 13    /* above max_memory_bytes or the format's limits */
};

/* ggml's type ids. */
enum kvpack_dtype { KVPACK_F32 = 0, KVPACK_F16 = 1, KVPACK_BF16 = 30 };
enum kvpack_side { KVPACK_KEY = 0, KVPACK_VALUE = 1 };
enum kvpack_quality { KVPACK_LOSSLESS = 0, KVPACK_HIGH = 1, KVPACK_MEDIUM = 2, KVPACK_LOW = 3 };
enum kvpack_rope_style { KVPACK_ROPE_NORM = 1, KVPACK_ROPE_NEOX = 2 };

/* Pair j of a token at position p is turned by p * inv_freq[j]. */
typedef struct kvpack_rope {
  uint32_t style;         /* kvpack_rope_style */
  uint32_t first_channel; /* of a head; 0 except for MLA */
  uint32_t pairs;
  double magnitude;       /* 1 except for YaRN */
  const double* inv_freq; /* [pairs] */
} kvpack_rope;

/* One layer's keys or values: [token][kv_head][head_dim] with these strides. */
typedef struct kvpack_plane {
  uint32_t layer;
  uint32_t side; /* kvpack_side */
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t dtype; /* kvpack_dtype */
  int32_t rope;   /* index into kvpack_chunk.ropes; -1: keep the keys as they are, or values */
  void* data;     /* only read when encoding */
  uint64_t token_stride;
  uint64_t head_stride;
  uint64_t channel_stride;
} kvpack_plane;

typedef struct kvpack_chunk {
  uint32_t tokens; /* 1..4096 */
  uint32_t n_planes;
  uint32_t n_ropes;
  const int32_t* positions;   /* [tokens], ascending */
  const kvpack_plane* planes; /* [n_planes], K before V, layers ascending */
  const kvpack_rope* ropes;   /* [n_ropes] */
} kvpack_chunk;

typedef struct kvpack_frame_info {
  uint64_t frame_bytes;  /* without padding after it */
  uint64_t raw_bytes;    /* of the values as they were stored */
  uint64_t memory_bytes; /* working memory that decoding takes at most */
  uint32_t tokens;
  uint32_t n_planes;
  uint32_t levels;
} kvpack_frame_info;

/* "ok", "corrupt", ... */
const char* kvpack_status_name(int status);

/* The message of this thread's last failed call; "" after none. Valid until this thread's next call. */
const char* kvpack_last_error(void);

/* The largest frame that kvpack_encode_frame can make of this chunk, and the working memory that it takes at most. */
int kvpack_frame_bound(const kvpack_chunk* chunk, uint64_t* frame_bytes, uint64_t* memory_bytes);

/* Encodes into dst[0 .. capacity). *written is the frame's size. `quality` is a kvpack_quality. */
int kvpack_encode_frame(const kvpack_chunk* chunk, int quality, uint64_t max_memory_bytes, void* dst, size_t capacity,
                        size_t* written);

/* Header and shape of the frame at src[0 .. bytes); bytes may go beyond the frame. */
int kvpack_read_frame_info(const void* src, size_t bytes, kvpack_frame_info* info);

/* Shapes of its planes: everything but data; strides for contiguous rows. `capacity` is planes' length. */
int kvpack_read_frame_planes(const void* src, size_t bytes, kvpack_plane* planes, uint32_t capacity);

/* Decodes levels 0 .. top_level (UINT32_MAX: all) into planes[].data, which may have any strides and any of the three
 * types. positions (may be NULL) receives [tokens]. Checksums are verified before anything is written. */
int kvpack_decode_frame(const void* src, size_t bytes, uint32_t top_level, uint64_t max_memory_bytes,
                        const kvpack_plane* planes, uint32_t n_planes, int32_t* positions);

#ifdef __cplusplus
}
#endif

#endif
