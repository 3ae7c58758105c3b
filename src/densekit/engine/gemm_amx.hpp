// Products of bfloat16 on a processor with AMX, whose registers are tiles of 16 rows of 64 bytes.

#pragma once

#include "gemm.hpp"

#ifdef HAS_TILES
namespace densekit {

// Configures this thread's tile registers, all of full size, until it is destroyed.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    _tile_loadconfig(&shape);
  }
  Tiles(const Tiles&) = delete;
  ~Tiles() { _tile_release(); }
};

// out (16 * rows, 16 * columns) = a (16 * rows, depth) b (depth, 16 * columns), or added to it. Row i of `a` at a depth
// begins at a.at(i, depth). The sums are tiles 0 to 3.
template <int rows, int columns, bool add, class From>
void multiply_square(const From& a, Matrix<const Pair> b, Matrix<float> out, int64_t depth) {
  const int64_t out_step = out.stride * sizeof(float), a_step = a.row * sizeof(*a.data), b_step = b.stride * sizeof(Pair);
  if constexpr (add) {
    _tile_loadd(0, out.data, out_step);
    if constexpr (columns == 2) _tile_loadd(1, out.data + 16, out_step);
    if constexpr (rows == 2) _tile_loadd(2, out.row(16), out_step);
    if constexpr (rows == 2 && columns == 2) _tile_loadd(3, out.row(16) + 16, out_step);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t d = 0; d < depth; d += 16) {
    _tile_loadd(6, b.row(d), b_step);
    _tile_loadd(4, a.at(0, d), a_step);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (columns == 2) {
      _tile_loadd(7, b.row(d) + 16, b_step);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (rows == 2) {
      _tile_loadd(5, a.at(16, d), a_step);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (columns == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out.data, out_step);
  if constexpr (columns == 2) _tile_stored(1, out.data + 16, out_step);
  if constexpr (rows == 2) _tile_stored(2, out.row(16), out_step);
  if constexpr (rows == 2 && columns == 2) _tile_stored(3, out.row(16) + 16, out_step);
}

template <int columns, bool add, class From>
void multiply_squares(From a, Matrix<const Pair> b, Matrix<float> out, int64_t m, int64_t depth) {
  for (; m > 16; m -= 32, a.data += 32 * a.row, out.data = out.row(32))
    multiply_square<2, columns, add>(a, b, out, depth);
  if (m > 0) multiply_square<1, columns, add>(a, b, out, depth);
}

// As the general `multiply`, but it computes whole_tiles(m) rows, and the depth must be whole tiles.
template <bool add, class From>
void multiply(const From& a, Panels<Pair> b, Matrix<float> out, int64_t m, int64_t n, int64_t depth) {
  const Tiles tiles;
  for (int64_t j = 0; j < n; j += kPanel<Pair>) {
    const Matrix<const Pair> panel{b.data + j / kPanel<Pair> * b.panel, b.row};
    const auto rows = n - j <= 16 ? multiply_squares<1, add, From> : multiply_squares<2, add, From>;
    rows(a, panel, {out.data + j, out.stride}, m, depth);
  }
}

}  // namespace densekit
#endif
