// The steps of `rows.hpp` for bfloat16 on processors with an instruction that rounds to it, which compilers do not use by
// themselves; masks handle the ends of rows that are not whole vectors.

#pragma once

#include "rows.hpp"

#ifdef __AVX512BF16__
#include <immintrin.h>

namespace densekit {

// Call body(channel, mask) for 16 channels at a time, and for the remaining ones.
template <class Body>
void by_lanes(int64_t channels, Body body) {
  int64_t c = 0;
  for (; c + 16 <= channels; c += 16) body(c, __mmask16(0xffff));
  if (c < channels) body(c, __mmask16((1 << (channels - c)) - 1));
}

inline __m512 load_lanes(__mmask16 mask, const float* from) { return _mm512_maskz_loadu_ps(mask, from); }
inline __m512 load_lanes(__mmask16 mask, const bfloat16* from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}
inline void store_lanes(__mmask16 mask, float* to, __m512 values) { _mm512_mask_storeu_ps(to, mask, values); }
inline void store_lanes(__mmask16 mask, bfloat16* to, __m512 values) {
  _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(values));
}

inline __m512 bnrelu_lanes(__m512 x, __m512 scale, __m512 shift) {
  return _mm512_max_ps(_mm512_setzero_ps(), _mm512_fmadd_ps(x, scale, shift));  // in this order of operands NaN stays NaN
}

inline void copy_rows(Matrix<const float> from, Matrix<bfloat16> to, int64_t rows, int64_t channels) {
  for (int64_t row = 0; row < rows; ++row)
    by_lanes(channels, [=](int64_t c, __mmask16 mask) {
      store_lanes(mask, to.row(row) + c, load_lanes(mask, from.row(row) + c));
    });
}

inline void bnrelu_rows(Matrix<const bfloat16> x, const float* scale, const float* shift, Matrix<bfloat16> out,
                        int64_t rows, int64_t channels) {
  by_four(rows, [=](auto number, int64_t row) {
    const auto xs = rows_from<number>(x, row);
    const auto to = rows_from<number>(out, row);
    by_lanes(channels, [=](int64_t c, __mmask16 mask) {
      const __m512 factor = load_lanes(mask, scale + c), term = load_lanes(mask, shift + c);
      for (int r = 0; r < number; ++r)
        store_lanes(mask, to[r] + c, bnrelu_lanes(load_lanes(mask, xs[r] + c), factor, term));
    });
  });
}

// Join every two rows to one of pairs, the two values of a channel, activated if there is a scale. An odd last row is
// joined with zeros. `Pair` has 32 bits, with the first row's value in the lower ones.
template <class Pair>
void pair_rows(Matrix<const bfloat16> x, const float* scale, const float* shift, Matrix<Pair> out, int64_t rows,
               int64_t channels) {
  const auto read = [=](int64_t row, int64_t c, __mmask16 mask) {
    if (!scale) return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x.row(row) + c));
    const __m512 factor = load_lanes(mask, scale + c), term = load_lanes(mask, shift + c);
    const __m512 value = bnrelu_lanes(load_lanes(mask, x.row(row) + c), factor, term);
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(value));
  };
  for (int64_t row = 0; row < rows; row += 2)
    by_lanes(channels, [=](int64_t c, __mmask16 mask) {
      __m512i both = read(row, c, mask);
      if (row + 1 < rows) both = _mm512_or_epi32(both, _mm512_slli_epi32(read(row + 1, c, mask), 16));
      _mm512_mask_storeu_epi32(out.row(row / 2) + c, mask, both);
    });
}

// Transpose 16 rows of 16 values of 32 bits.
inline void transpose(__m512i (&rows)[16]) {
  __m512i from[16];
  std::copy_n(rows, 16, from);
  for (int i = 0; i < 16; i += 2) {
    rows[i] = _mm512_unpacklo_epi32(from[i], from[i + 1]);
    rows[i + 1] = _mm512_unpackhi_epi32(from[i], from[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)  // from[i + j], lane l: column 4 * l + j of rows i to i + 3
    for (int j = 0; j < 2; ++j) {
      from[i + 2 * j] = _mm512_unpacklo_epi64(rows[i + j], rows[i + j + 2]);
      from[i + 2 * j + 1] = _mm512_unpackhi_epi64(rows[i + j], rows[i + j + 2]);
    }
  for (int j = 0; j < 4; ++j) {
    const __m512i even = _mm512_shuffle_i32x4(from[j], from[4 + j], 0x88);
    const __m512i odd = _mm512_shuffle_i32x4(from[j], from[4 + j], 0xdd);
    const __m512i even_below = _mm512_shuffle_i32x4(from[8 + j], from[12 + j], 0x88);
    const __m512i odd_below = _mm512_shuffle_i32x4(from[8 + j], from[12 + j], 0xdd);
    rows[j] = _mm512_shuffle_i32x4(even, even_below, 0x88);
    rows[8 + j] = _mm512_shuffle_i32x4(even, even_below, 0xdd);
    rows[4 + j] = _mm512_shuffle_i32x4(odd, odd_below, 0x88);
    rows[12 + j] = _mm512_shuffle_i32x4(odd, odd_below, 0xdd);
  }
}

// Transpose x to a row of pairs for each channel, a pair being the values of two rows. The number of pairs is a multiple of
// 16; after the last row they are zero.
template <class Pair>
void transpose_rows(Matrix<const bfloat16> x, Matrix<Pair> out, int64_t rows, int64_t pairs, int64_t channels) {
  for (int64_t first = 0; first < pairs; first += 16)
    by_lanes(channels, [=](int64_t c, __mmask16 mask) {
      __m512i both[16];
      const auto read = [=](int64_t row) {
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(row < rows ? mask : __mmask16(0), x.row(row) + c));
      };
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t row = 2 * (first + i);
        both[i] = _mm512_or_epi32(read(row), _mm512_slli_epi32(read(row + 1), 16));
      }
      transpose(both);
      for (int64_t i = 0; i < 16 && c + i < channels; ++i) _mm512_storeu_epi32(out.row(c + i) + first, both[i]);
    });
}

template <bool onto_source, class G>
void drelu_lanes(Matrix<const G> gradient, Matrix<const bfloat16> x, const float* scale, const float* shift,
                 const float* mean, Matrix<const bfloat16> source, Matrix<bfloat16> out, float* plain, float* weighted,
                 int64_t rows, int64_t channels) {
  by_four(rows, [=](auto number, int64_t row) {
    const auto ds = rows_from<number>(gradient, row);
    const auto xs = rows_from<number>(x, row);
    const auto from = rows_from<number>(onto_source ? source : x, row);
    const auto to = rows_from<number>(out, row);
    by_lanes(channels, [=](int64_t c, __mmask16 mask) {
      const __m512 factor = load_lanes(mask, scale + c), term = load_lanes(mask, shift + c);
      const __m512 middle = load_lanes(mask, mean + c);
      __m512 sum = load_lanes(mask, plain + c), product = load_lanes(mask, weighted + c);
      for (int r = 0; r < number; ++r) {
        const __m512 value = load_lanes(mask, xs[r] + c), before_relu = _mm512_fmadd_ps(value, factor, term);
        const __mmask16 on = _mm512_cmp_ps_mask(before_relu, _mm512_setzero_ps(), _CMP_NLE_UQ);  // NaN is on
        const __m512 masked = _mm512_maskz_mov_ps(on, load_lanes(mask, ds[r] + c));
        sum = _mm512_add_ps(sum, masked);
        product = _mm512_fmadd_ps(masked, _mm512_sub_ps(value, middle), product);
        const __m512 result = onto_source ? _mm512_fmadd_ps(factor, masked, load_lanes(mask, from[r] + c)) : masked;
        store_lanes(mask, to[r] + c, result);
      }
      store_lanes(mask, plain + c, sum);
      store_lanes(mask, weighted + c, product);
    });
  });
}

inline void bn_gradient_rows(Matrix<const bfloat16> gradient, Matrix<const bfloat16> x, const float* mean,
                             const float* scale, Matrix<const float> terms, Matrix<bfloat16> out, int64_t rows,
                             int64_t channels) {
  by_four(rows, [=](auto number, int64_t row) {
    const auto ds = rows_from<number>(gradient, row);
    const auto xs = rows_from<number>(x, row);
    const auto to = rows_from<number>(out, row);
    by_lanes(channels, [=](int64_t c, __mmask16 mask) {
      const __m512 factor = load_lanes(mask, scale + c);
      if (!terms.data) {
        for (int r = 0; r < number; ++r)
          store_lanes(mask, to[r] + c, _mm512_mul_ps(load_lanes(mask, ds[r] + c), factor));
        return;
      }
      const __m512 middle = load_lanes(mask, mean + c), first = load_lanes(mask, terms.row(0) + c);
      const __m512 second = load_lanes(mask, terms.row(1) + c);
      for (int r = 0; r < number; ++r) {
        const __m512 apart = _mm512_sub_ps(load_lanes(mask, xs[r] + c), middle);
        const __m512 scaled = _mm512_fmsub_ps(load_lanes(mask, ds[r] + c), factor, first);
        store_lanes(mask, to[r] + c, _mm512_fnmadd_ps(apart, second, scaled));
      }
    });
  });
}

// Replaces the general version.
#define DEFINE(ONTO_SOURCE, G)                                                                                         \
  template <>                                                                                                          \
  inline void drelu_rows<bfloat16, ONTO_SOURCE, G>(                                                                    \
      Matrix<const G> gradient, Matrix<const bfloat16> x, const float* scale, const float* shift, const float* mean,   \
      Matrix<const bfloat16> source, Matrix<bfloat16> out, float* plain, float* weighted, int64_t rows,                \
      int64_t channels) {                                                                                              \
    drelu_lanes<ONTO_SOURCE, G>(gradient, x, scale, shift, mean, source, out, plain, weighted, rows, channels);        \
  }
DEFINE(false, float)
DEFINE(true, float)
DEFINE(false, bfloat16)
DEFINE(true, bfloat16)
#undef DEFINE

}  // namespace densekit
#endif
