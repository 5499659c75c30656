// Counter-based random numbers: a token's noise depends on the row's seed and the token's index
// and on nothing else, so a row gives the same sample in any batch, on any device, in any order.
// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once
#include <cstdint>

#include "memo/mix_logits.h"

namespace memo {

// Sampling is Gumbel-max in two levels. argmax_v (log p(v) + G_v) over tokens is an exact sample
// of p; so is the argmax over tiles of (log mass of the tile + G), followed by the argmax over the
// tokens of that tile, because the largest of a tile's Gumbel scores is itself Gumbel around the
// log of the tile's mass. One level would need noise for every token of the vocabulary.
enum class NoiseStream : uint32_t { tile = 0, token = 1 };

// The first of Philox's four words for counter (index, stream, 0, 0) and key `seed`.
MEMO_HOST_DEVICE uint32_t philox(uint64_t seed, uint32_t index, NoiseStream stream) {
  uint32_t c0 = index, c1 = static_cast<uint32_t>(stream), c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t next0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t next2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1), c3 = static_cast<uint32_t>(p0);
    c0 = next0, c2 = next2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return c0;
}

// Uniform on the open interval (0, 1), with 23 bits: both ends must stay out of the logarithms.
MEMO_HOST_DEVICE float uniform(uint64_t seed, uint32_t index, NoiseStream stream) {
  return (static_cast<float>(philox(seed, index, stream) >> 9) + 0.5f) * 0x1p-23f;
}

}  // namespace memo
