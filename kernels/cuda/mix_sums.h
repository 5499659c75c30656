// Sums over a row of one number for each (token, source): a warp per (row, tile) leaves its part,
// and the last warp of the row adds the parts in a fixed order. No floating-point atomics: the same
// inputs give the same bits.
#pragma once
#include "cuda/mix_row.h"

namespace memo::cuda {

// `Sums` has of_source(in, row, tile, source, mixed), the part of a tile, and finish(in, row,
// total), called by a warp whose lane s holds the total of source s; and kBlocks, see mix_tile.h.
template <class Sums>
__global__ void __launch_bounds__(kThreads, Sums::kBlocks) tile_sums_kernel(MixInputs in, Sums sums) {
  const int64_t unit = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warp();
  if (unit >= in.rows * in.tiles()) return;
  const int64_t row = unit / in.tiles(), tile = unit % in.tiles();
  float* partials = Workspace(in).partials;
  float mixed[kPerLane];
  log2_probs(in, row, tile, mixed);
  for (int s = 0; s < in.num_sources; ++s) {
    const bool active = has_weight(in, row, s);
    const float part = active ? sums.of_source(in, row, tile, s, mixed) : 0.f;
    if (lane() == 0) partials[unit * in.num_sources + s] = part;
  }
  if (!arrives_last(in, row, in.tiles())) return;
  float mine = 0;
  for (int s = 0; s < in.num_sources; ++s) {
    float total = 0;
    for (int64_t t = lane(); t < in.tiles(); t += kWarp)
      total += load_fresh(partials + (row * in.tiles() + t) * in.num_sources + s);
    total = warp_sum(total);
    mine = lane() == s ? total : mine;
  }
  sums.finish(in, row, mine);
}

inline dim3 blocks_for_tiles(const MixInputs& in) {
  constexpr int64_t kPerBlock = kThreads / kWarp;
  return dim3(static_cast<unsigned>((in.rows * in.tiles() + kPerBlock - 1) / kPerBlock));
}

template <class Sums>
int launch_tile_sums(const MixInputs& in, const Sums& sums) {
  return launch(tile_sums_kernel<Sums>, blocks_for_tiles(in), kThreads, 0, in.stream, in, sums);
}

}  // namespace memo::cuda
