// The memory-bound steps of the fused dense block on a CPU, each in one pass over the rows; `ops.py` defines them.
//
// Matrices are (rows, channels) with the rows `stride` values apart. Values are stored as T (double, float or bfloat16)
// and computed with as A (double for double, otherwise float). Rows go through in chunks that stay in the first-level
// cache; sums are kept per chunk in A and per thread in double, and joined in a fixed order.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
#endif

using std::size_t;

namespace {

struct bfloat16 {
  uint16_t bits;
};

template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using Acc = typename Accumulator<T>::type;

template <class T>
Acc<T> load(T value) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return std::bit_cast<float>(uint32_t(value.bits) << 16);
  else
    return value;
}

template <class T>
T store(Acc<T> value) {
  if constexpr (std::is_same_v<T, bfloat16>) {  // round to nearest, ties to even; a NaN stays one
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return {uint16_t(value == value ? rounded : 0x7fc0)};
  } else {
    return value;
  }
}

template <class A>
A relu(A value) {  // not a maximum: NaN passes
  return value <= 0 ? 0 : value;
}

template <class T>
struct Matrix {
  T* data;
  int64_t stride;
  T* row(int64_t number) const { return data + number * stride; }
};

struct Size {
  int64_t rows, channels;
  int threads;
};

constexpr int64_t kChunk = 64;  // rows

// Call body(thread, first row, last row) for every chunk of rows.
template <class Body>
void for_chunks(Size size, Body body) {
  const int64_t chunks = (size.rows + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(size.threads)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t first = chunk * kChunk;
    body(omp_get_thread_num(), first, std::min(first + kChunk, size.rows));
  }
}

// Two sums for every channel: of the values that a chunk adds up, all chunks together.
template <class A>
class Sums {
 public:
  explicit Sums(Size size)
      : width_(2 * size.channels), chunk_(size.threads * width_), total_(size.threads * width_) {}

  A* chunk(int thread) {
    A* sums = &chunk_[thread * width_];
    std::fill(sums, sums + width_, A(0));
    return sums;
  }

  void add(int thread) {
    const A* sums = &chunk_[thread * width_];
    double* total = &total_[thread * width_];
    for (int64_t i = 0; i < width_; ++i) total[i] += sums[i];
  }

  void write(A* out) const {
    for (int64_t i = 0; i < width_; ++i) {
      double sum = 0;
      for (size_t start = 0; start < total_.size(); start += width_) sum += total_[start + i];
      out[i] = A(sum);
    }
  }

 private:
  int64_t width_;
  std::vector<A> chunk_;
  std::vector<double> total_;
};

// Call body(number, row) for rows four at a time and the rest one by one, so that what belongs to a channel is read, and
// its sums are written, once in four rows. `number` is a constant, known to the compiler. bfloat16 goes one by one: it is
// busy with conversions, and gains nothing.
template <class T, class Body>
void by_four(int64_t first, int64_t last, Body body) {
  int64_t row = first;
  if constexpr (sizeof(T) >= 4)
    for (; row + 4 <= last; row += 4) body(std::integral_constant<int, 4>(), row);
  for (; row < last; ++row) body(std::integral_constant<int, 1>(), row);
}

template <int number, class T>
std::array<T*, number> rows_from(Matrix<T> matrix, int64_t row) {
  std::array<T*, number> rows;
  for (int r = 0; r < number; ++r) rows[r] = matrix.row(row + r);
  return rows;
}

template <class T>
void bnrelu(Matrix<const T> x, const Acc<T>* scale, const Acc<T>* shift, Matrix<T> out, Size size) {
  for_chunks(size, [=](int, int64_t first, int64_t last) {
    by_four<T>(first, last, [=](auto number, int64_t row) {
      const auto xs = rows_from<number>(x, row);
      const auto to = rows_from<number>(out, row);
#pragma omp simd
      for (int64_t c = 0; c < size.channels; ++c) {
        const Acc<T> factor = scale[c], term = shift[c];
        for (int r = 0; r < number; ++r) to[r][c] = store<T>(relu(load(xs[r][c]) * factor + term));
      }
    });
  });
}

// D is the gradient where the ReLU was on, else zero; add it up, plain and times x - mean. `out` becomes D or, where
// there is a source, source + scale * D.
template <class T, bool onto_source>
void drelu_sums(Matrix<const T> gradient, Matrix<const T> x, const Acc<T>* scale, const Acc<T>* shift,
                const Acc<T>* mean, Matrix<const T> source, Matrix<T> out, Acc<T>* sums, Size size) {
  using A = Acc<T>;
  Sums<A> totals(size);
  for_chunks(size, [&](int thread, int64_t first, int64_t last) {
    A* plain = totals.chunk(thread);
    A* weighted = plain + size.channels;
    by_four<T>(first, last, [=](auto number, int64_t row) {
      const auto ds = rows_from<number>(gradient, row);
      const auto xs = rows_from<number>(x, row);
      const auto from = rows_from<number>(onto_source ? source : gradient, row);
      const auto to = rows_from<number>(out, row);
#pragma omp simd
      for (int64_t c = 0; c < size.channels; ++c) {
        const A factor = scale[c], term = shift[c], middle = mean[c];
        A sum = plain[c], product = weighted[c];
        for (int r = 0; r < number; ++r) {
          const A value = load(xs[r][c]), incoming = load(ds[r][c]);  // a conditional load would be no vector's
          const A masked = value * factor + term <= 0 ? A(0) : incoming;
          sum += masked;
          product += masked * (value - middle);
          to[r][c] = store<T>(onto_source ? load(from[r][c]) + factor * masked : masked);
        }
        plain[c] = sum;
        weighted[c] = product;
      }
    });
    totals.add(thread);
  });
  totals.write(sums);
}

template <class T>
void bn_gradient(Matrix<const T> gradient, Matrix<const T> x, const Acc<T>* mean, const Acc<T>* scale, const Acc<T>* c1,
                 const Acc<T>* c2, Matrix<T> out, Size size) {
  for_chunks(size, [=](int, int64_t first, int64_t last) {
    by_four<T>(first, last, [=](auto number, int64_t row) {
      const auto ds = rows_from<number>(gradient, row);
      const auto xs = rows_from<number>(x, row);
      const auto to = rows_from<number>(out, row);
#pragma omp simd
      for (int64_t c = 0; c < size.channels; ++c) {
        const Acc<T> factor = scale[c], middle = mean[c], first_term = c1[c], second_term = c2[c];
        for (int r = 0; r < number; ++r)
          to[r][c] = store<T>(load(ds[r][c]) * factor - first_term - (load(xs[r][c]) - middle) * second_term);
      }
    });
  });
}

// Mean, and sum of squared differences from it, of all rows so far.
struct Moments {
  double count = 0;
  std::vector<double> means, squares;

  explicit Moments(int64_t channels) : means(channels), squares(channels) {}

  // Chan, Golub and LeVeque 1983, equation 2.1
  void join(const Moments& other) {
    const double all = count + other.count;
    for (size_t c = 0; c < means.size(); ++c) {
      const double apart = other.means[c] - means[c];
      means[c] += apart * (other.count / all);
      squares[c] += other.squares[c] + apart * apart * (count * other.count / all);
    }
    count = all;
  }
};

// Means and biased variances of every column, two passes over each chunk; with `out`, x is copied there on the way.
template <class T>
void tile_moments(Matrix<const T> x, Matrix<T> out, double* moments, Size size) {
  const int64_t channels = size.channels;
  using A = Acc<T>;
  struct Thread {
    Moments all, chunk;
    std::vector<A> means, squares;  // of a chunk; means as differences from its first row
    explicit Thread(int64_t channels) : all(channels), chunk(channels), means(channels), squares(channels) {}
  };
  std::vector<Thread> threads(size.threads, Thread(channels));
  for_chunks(size, [&](int thread, int64_t first, int64_t last) {
    Thread& own = threads[thread];
    A* means = own.means.data();
    A* squares = own.squares.data();
    const T* pivot = x.row(first);
    std::fill(means, means + channels, A(0));
    std::fill(squares, squares + channels, A(0));
    by_four<T>(first, last, [=](auto number, int64_t row) {
      const auto xs = rows_from<number>(x, row);
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const A base = load(pivot[c]);
        A sum = means[c];
        for (int r = 0; r < number; ++r) sum += load(xs[r][c]) - base;
        means[c] = sum;
      }
      if (out.data)
        for (int r = 0; r < number; ++r) std::copy_n(xs[r], channels, out.row(row + r));
    });
    const A share = A(1) / A(last - first);
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) means[c] *= share;
    by_four<T>(first, last, [=](auto number, int64_t row) {
      const auto xs = rows_from<number>(x, row);
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        const A base = load(pivot[c]), mean = means[c];
        A sum = squares[c];
        for (int r = 0; r < number; ++r) {
          const A apart = load(xs[r][c]) - base - mean;
          sum += apart * apart;
        }
        squares[c] = sum;
      }
    });
    own.chunk.count = double(last - first);
    for (int64_t c = 0; c < channels; ++c) {
      own.chunk.means[c] = double(load(pivot[c])) + means[c];
      own.chunk.squares[c] = squares[c];
    }
    own.all.join(own.chunk);
  });
  Moments& all = threads[0].all;
  for (size_t thread = 1; thread < threads.size(); ++thread)
    if (threads[thread].all.count) all.join(threads[thread].all);
  for (int64_t c = 0; c < channels; ++c) {
    moments[c] = all.means[c];
    moments[channels + c] = all.squares[c] / all.count;
  }
}

// Beside each other for every pixel, (N * H * W, 3, 3, channels): the pixels (1, 1) to (-1, -1) away, zero outside.
template <class T>
void neighbours(const T* x, T* out, int64_t N, int64_t H, int64_t W, int64_t channels, int threads) {
#pragma omp parallel for schedule(static) collapse(2) num_threads(threads)
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t h = 0; h < H; ++h) {
      T* to = out + (n * H + h) * W * 9 * channels;
      for (int64_t w = 0; w < W; ++w) {
        for (int64_t row = h + 1; row >= h - 1; --row) {
          for (int64_t column = w + 1; column >= w - 1; --column, to += channels) {
            if (row < 0 || row >= H || column < 0 || column >= W)
              std::fill(to, to + channels, T());
            else
              std::copy_n(x + ((n * H + row) * W + column) * channels, channels, to);
          }
        }
      }
    }
  }
}

}  // namespace

#define DEFINE(T, NAME)                                                                                                \
  extern "C" void bnrelu_##NAME(const T* x, int64_t x_stride, const Acc<T>* scale, const Acc<T>* shift, T* out,        \
                                int64_t out_stride, int64_t rows, int64_t channels, int threads) {                     \
    bnrelu<T>({x, x_stride}, scale, shift, {out, out_stride}, {rows, channels, threads});                              \
  }                                                                                                                    \
  extern "C" void drelu_sums_##NAME(const T* gradient, int64_t gradient_stride, const T* x, int64_t x_stride,          \
                                    const Acc<T>* scale, const Acc<T>* shift, const Acc<T>* mean, const T* source,     \
                                    int64_t source_stride, T* out, int64_t out_stride, Acc<T>* sums, int64_t rows,     \
                                    int64_t channels, int threads) {                                                   \
    const auto step = source ? drelu_sums<T, true> : drelu_sums<T, false>;                                             \
    step({gradient, gradient_stride}, {x, x_stride}, scale, shift, mean, {source, source_stride}, {out, out_stride},   \
         sums, {rows, channels, threads});                                                                             \
  }                                                                                                                    \
  extern "C" void bn_gradient_##NAME(const T* gradient, int64_t gradient_stride, const T* x, int64_t x_stride,         \
                                     const Acc<T>* mean, const Acc<T>* scale, const Acc<T>* c1, const Acc<T>* c2,      \
                                     T* out, int64_t out_stride, int64_t rows, int64_t channels, int threads) {        \
    bn_gradient<T>({gradient, gradient_stride}, {x, x_stride}, mean, scale, c1, c2, {out, out_stride}, {rows, channels, threads}); \
  }                                                                                                                    \
  extern "C" void tile_moments_##NAME(const T* x, int64_t x_stride, T* out, int64_t out_stride, double* moments,       \
                                       int64_t rows, int64_t channels, int threads) {                                  \
    tile_moments<T>({x, x_stride}, {out, out_stride}, moments, {rows, channels, threads});                             \
  }                                                                                                                    \
  extern "C" void neighbours_##NAME(const T* x, T* out, int64_t N, int64_t H, int64_t W, int64_t channels, int threads) { \
    neighbours<T>(x, out, N, H, W, channels, threads);                                                                 \
  }

DEFINE(double, float64)
DEFINE(float, float32)
DEFINE(bfloat16, bfloat16)
