// AMX's tiles in AVX-512: what the compiled steps do with them can be tested on processors that have none.
//
// To be included before the steps, as by CXX="c++ -include tests/engine/amx_emulation.hpp".

#pragma once

#ifdef __AVX512BF16__  // which the steps need beside AMX
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define __AMX_BF16__ 1
#define MAY_USE_TILES 1

namespace amx_emulation {

struct Tile {
  alignas(64) unsigned char rows[16][64];
};
inline thread_local Tile tiles[8];
inline thread_local bool configured = false;  // an instruction without a configuration would kill the process

inline void load(int tile, const void* from, int64_t stride) {
  if (!configured) __builtin_trap();
  for (int row = 0; row < 16; ++row) std::memcpy(tiles[tile].rows[row], static_cast<const char*>(from) + row * stride, 64);
}

inline void store(int tile, void* to, int64_t stride) {
  if (!configured) __builtin_trap();
  for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(to) + row * stride, tiles[tile].rows[row], 64);
}

// sums (16, 16) += a (16, 16 pairs) b (16 pairs, 16)
inline void multiply_add(int sums, int a, int b) {
  for (int row = 0; row < 16; ++row) {
    __m512 sum = _mm512_load_ps(tiles[sums].rows[row]);
    for (int depth = 0; depth < 16; ++depth) {
      int pair;
      std::memcpy(&pair, tiles[a].rows[row] + 4 * depth, sizeof(pair));
      sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_load_si512(tiles[b].rows[depth]));
    }
    _mm512_store_ps(tiles[sums].rows[row], sum);
  }
}

}  // namespace amx_emulation

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig(from) (amx_emulation::configured = true)
#define _tile_release() (amx_emulation::configured = false)
#define _tile_loadd(tile, from, stride) amx_emulation::load(tile, from, stride)
#define _tile_stored(tile, to, stride) amx_emulation::store(tile, to, stride)
#define _tile_zero(tile) std::memset(&amx_emulation::tiles[tile], 0, sizeof(amx_emulation::Tile))
#define _tile_dpbf16ps(sums, a, b) amx_emulation::multiply_add(sums, a, b)
#endif
