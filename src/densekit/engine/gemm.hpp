// Products of matrices in the cache, and the vector types they use.

#pragma once

#include "rows_avx512_bf16.hpp"
#include "scratch.hpp"

namespace densekit {

// Bytes of a vector; and rows (by 2 vectors) of a product whose sums fit into the registers together with the operands.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRows = 12;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kRows = 6;
#else
constexpr int kVectorBytes = 16, kRows = 6;
#endif

struct Pair {  // two values that are neighbours along the depth of a product
  bfloat16 first, second;
};

// The operands of products: pairs if the processor can multiply them, otherwise values of the type of the sums.
#ifdef __AVX512BF16__
template <class T>
constexpr bool kPairs = std::is_same_v<T, bfloat16>;
#else
template <class T>
constexpr bool kPairs = false;
#endif
template <class T>
using Value = std::conditional_t<kPairs<T>, T, Acc<T>>;
template <class T>
using Operand = std::conditional_t<kPairs<T>, Pair, Acc<T>>;
template <class T>
constexpr int64_t kDepth = kPairs<T> ? 2 : 1;  // values of an operand

// Whether products are computed in AMX's tiles of 16 rows and 16 operands (gemm_amx.hpp), which the process must be allowed.
#if defined(MAY_USE_TILES) && (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__)
#define HAS_TILES
template <class T>
constexpr bool kTiles = kPairs<T>;
#else
template <class T>
constexpr bool kTiles = false;
#endif
constexpr int64_t kTile = 16;

template <class T>
int64_t operands(int64_t values) {
  const int64_t number = (values + kDepth<T> - 1) / kDepth<T>;
  return kTiles<T> ? (number + kTile - 1) / kTile * kTile : number;
}

// The number of rows rounded up to whole tiles.
template <class T>
int64_t whole_tiles(int64_t rows) {
  return kTiles<T> ? (rows + kTile - 1) / kTile * kTile : rows;
}

// Operand `number` of `count` values that are `step` apart; values past the last are zero.
template <class T>
Operand<T> operand(const T* values, int64_t step, int64_t number, int64_t count) {
  const auto value = [=](int64_t place) { return place < count ? values[place * step] : T{}; };
  if constexpr (kPairs<T>)
    return {value(2 * number), value(2 * number + 1)};
  else
    return load(value(number));
}

template <class T>
struct VectorOf {
  typedef std::conditional_t<std::is_same_v<T, Pair>, uint32_t, T> type __attribute__((vector_size(kVectorBytes)));
  typedef type in_memory __attribute__((aligned(sizeof(T)), may_alias));  // at any address
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int64_t kLanes = kVectorBytes / sizeof(T);

template <class T>
Vector<T> get(const T* from) {
  return *reinterpret_cast<const typename VectorOf<T>::in_memory*>(from);
}

template <class T>
void put(T* to, Vector<T> value) {
  *reinterpret_cast<typename VectorOf<T>::in_memory*>(to) = value;
}

template <class T>
int64_t whole_vectors(int64_t values) {
  return (values + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// At least so many values, rounded up to an odd number of cache lines: rows this far apart use all sets of a cache.
template <class T>
int64_t padded_stride(int64_t values) {
  constexpr int64_t line = 64 / sizeof(T);
  return ((values + line - 1) / line | 1) * line;
}

template <class T>
struct Strided {  // element (i, j) is data[i * row + j * column]
  const T* data;
  int64_t row, column;
  const T* at(int64_t i, int64_t j) const { return data + i * row + j * column; }
};

// The values of rows as operands; the stride is a multiple of kDepth, and the last value is followed by zeros.
template <class T>
Strided<Operand<T>> along_rows(const Scratch<Value<T>>& rows, int64_t stride) {
  return {reinterpret_cast<const Operand<T>*>(rows.data()), stride / kDepth<T>, 1};
}

// Put zeros after the last value of each row, up to a whole number of operands.
template <class T>
void finish_operands(Matrix<Value<T>> rows, int64_t number, int64_t channels) {
  for (int64_t row = 0; row < number; ++row)
    std::fill(rows.row(row) + channels, rows.row(row) + operands<T>(channels) * kDepth<T>, Value<T>{});
}

template <class T>
constexpr int64_t kPanel = 2 * kLanes<T>;  // columns

template <class T>
struct Panels {  // column j of row i is data[j / kPanel * panel + i * row + j % kPanel]
  const T* data;
  int64_t row, panel;
  static Panels of(Matrix<const T> matrix) { return {matrix.data, matrix.stride, kPanel<T>}; }
};

// A matrix (depth, columns) as consecutive panels, each (depth, kPanel), with zeros after the last column: walking down a
// panel touches neighbouring memory only.
template <class T>
class Packed {
 public:
  Packed(int64_t depth, int64_t columns)
      : depth_(depth), columns_(columns), values_((columns + kPanel<T> - 1) / kPanel<T> * kPanel<T> * depth) {}

  // Fill a row of all panels with read(column).
  template <class Read>
  void pack(int64_t row, Read read) {
    for (int64_t first = 0; first < columns_; first += kPanel<T>) {
      T* to = &values_[first * depth_ + row * kPanel<T>];
      const int64_t number = std::min(kPanel<T>, columns_ - first);
      for (int64_t j = 0; j < number; ++j) to[j] = read(first + j);
      std::fill(to + number, to + kPanel<T>, T{});
    }
  }

  // From a column on, which must be the first of a panel.
  Panels<T> panels(int64_t column = 0) const { return {&values_[column * depth_], kPanel<T>, kPanel<T> * depth_}; }

 private:
  int64_t depth_, columns_;
  Scratch<T> values_;
};

template <class T>
void multiply_add(Vector<T>& sums, T factor, Vector<T> values) {
  sums += factor * values;
}

#ifdef __AVX512BF16__
inline void multiply_add(Vector<float>& sums, Pair factor, Vector<Pair> values) {
  const __m512i both = _mm512_set1_epi32(std::bit_cast<int>(factor));
  sums = (Vector<float>)_mm512_dpbf16_ps((__m512)sums, (__m512bh)both, (__m512bh)values);
}
#endif

// out (rows, vectors) = a (rows, depth) b (depth, vectors), or added to it; all sums stay in registers.
template <int rows, int vectors, bool add, class T, class A>
void multiply_tile(Strided<T> a, Matrix<const T> b, Matrix<A> out, int64_t depth) {
  Vector<A> sums[rows][vectors];
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) sums[i][v] = add ? get(out.row(i) + v * kLanes<A>) : Vector<A>{};
  for (int64_t d = 0; d < depth; ++d) {
    Vector<T> values[vectors];
    for (int v = 0; v < vectors; ++v) values[v] = get(b.row(d) + v * kLanes<T>);
    for (int i = 0; i < rows; ++i) {
      const T factor = *a.at(i, d);
      for (int v = 0; v < vectors; ++v) multiply_add(sums[i][v], factor, values[v]);
    }
  }
  for (int i = 0; i < rows; ++i)
    for (int v = 0; v < vectors; ++v) put(out.row(i) + v * kLanes<A>, sums[i][v]);
}

template <int rows, int vectors, bool add, class T, class A>
void multiply_rows(Strided<T> a, Matrix<const T> b, Matrix<A> out, int64_t m, int64_t depth) {
  for (; m >= rows; m -= rows, a.data += rows * a.row, out.data = out.row(rows))
    multiply_tile<rows, vectors, add>(a, b, out, depth);
  if constexpr (rows > 1)
    if (m) multiply_rows<rows - 1, vectors, add>(a, b, out, m, depth);
}

// out (m, n) = a (m, depth) b (depth, n), or added to it; n is a multiple of the lanes.
template <bool add, class T, class A>
  requires(!kTiles<bfloat16> || !std::is_same_v<T, Pair>)
void multiply(Strided<T> a, Panels<T> b, Matrix<A> out, int64_t m, int64_t n, int64_t depth) {
  for (int64_t j = 0; j < n; j += kPanel<T>) {
    const Matrix<const T> panel{b.data + j / kPanel<T> * b.panel, b.row};
    const auto rows = n - j < kPanel<T> ? multiply_rows<kRows, 1, add, T, A> : multiply_rows<kRows, 2, add, T, A>;
    rows(a, panel, {out.data + j, out.stride}, m, depth);
  }
}

}  // namespace densekit
