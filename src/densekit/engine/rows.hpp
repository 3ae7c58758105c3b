// Steps on a chunk of rows in the fused dense block: values and their types, sums, moments, and the steps themselves.
//
// Matrices are (rows, channels) with the rows `stride` values apart. Values are stored as T (double, float or bfloat16),
// and arithmetic is in A (double for double, otherwise float). Rows are processed in chunks that stay in the first-level
// cache; sums are kept per chunk in A and per thread in double, and added in a fixed order.

#pragma once

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
inline int omp_get_thread_num() { return 0; }
inline int omp_get_num_threads() { return 1; }
#endif

namespace densekit {

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
  if constexpr (std::is_same_v<T, bfloat16>) {  // round to nearest, ties to even; NaN stays NaN
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return {uint16_t(value == value ? rounded : 0x7fc0)};
  } else {
    return value;
  }
}

template <class A>
A relu(A value) {  // not a maximum, so that NaN stays NaN
  return value <= 0 ? 0 : value;
}

template <class A>
int64_t count_nan(const A* values, int64_t number) {
  int64_t found = 0;
#pragma omp simd reduction(+ : found)
  for (int64_t i = 0; i < number; ++i) found += values[i] != values[i];
  return found;
}

template <class T>
struct Matrix {
  T* data;
  int64_t stride;
  T* row(int64_t number) const { return data + number * stride; }
};

// Two sums for every channel over all chunks, each of which adds up its own.
template <class A>
class Sums {
 public:
  Sums(int64_t channels, int threads) : width_(2 * channels), chunk_(threads * width_), total_(threads * width_) {}

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

// Call body(number, row) for four rows at a time and the rest one by one, so that a channel's constants are read, and its
// sums written, once for four rows. `number` is a compile-time constant.
template <class Body>
void by_four(int64_t rows, Body body) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) body(std::integral_constant<int, 4>(), row);
  for (; row < rows; ++row) body(std::integral_constant<int, 1>(), row);
}

template <int number, class T>
std::array<T*, number> rows_from(Matrix<T> matrix, int64_t row) {
  std::array<T*, number> rows;
  for (int r = 0; r < number; ++r) rows[r] = matrix.row(row + r);
  return rows;
}

// Copy rows, converting their type.
template <class T, class O>
void copy_rows(Matrix<const T> from, Matrix<O> to, int64_t rows, int64_t channels) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* values = from.row(row);
    O* copies = to.row(row);
    if constexpr (std::is_same_v<T, O>)
      std::copy_n(values, channels, copies);
    else
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) copies[c] = store<O>(load(values[c]));
  }
}

template <class T, class O>
void bnrelu_rows(Matrix<const T> x, const Acc<T>* scale, const Acc<T>* shift, Matrix<O> out, int64_t rows,
                 int64_t channels) {
  by_four(rows, [=](auto number, int64_t row) {
    const auto xs = rows_from<number>(x, row);
    const auto to = rows_from<number>(out, row);
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const Acc<T> factor = scale[c], term = shift[c];
      for (int r = 0; r < number; ++r) to[r][c] = store<O>(relu(load(xs[r][c]) * factor + term));
    }
  });
}

template <class T>
struct Activation {  // relu(x * scale + shift), or x itself without a scale
  const Acc<T> *scale, *shift;

  template <class O>
  void apply(Matrix<const T> x, Matrix<O> out, int64_t rows, int64_t channels) const {
    if (scale)
      bnrelu_rows(x, scale, shift, out, rows, channels);
    else
      copy_rows(x, out, rows, channels);
  }

  Activation from(int64_t channel) const { return {scale + channel, shift + channel}; }
};

// D is the gradient where the ReLU was on, else zero; it is added to two sums, plain and weighted with x - mean. `out`
// becomes D or, with a source, source + scale * D. The gradient is stored as G.
template <class T, bool onto_source, class G>
void drelu_rows(Matrix<const G> gradient, Matrix<const T> x, const Acc<T>* scale, const Acc<T>* shift,
                const Acc<T>* mean, Matrix<const T> source, Matrix<T> out, Acc<T>* plain, Acc<T>* weighted, int64_t rows,
                int64_t channels) {
  using A = Acc<T>;
  by_four(rows, [=](auto number, int64_t row) {
    const auto ds = rows_from<number>(gradient, row);
    const auto xs = rows_from<number>(x, row);
    const auto from = rows_from<number>(onto_source ? source : x, row);
    const auto to = rows_from<number>(out, row);
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const A factor = scale[c], term = shift[c], middle = mean[c];
      A sum = plain[c], product = weighted[c];
      for (int r = 0; r < number; ++r) {
        const A value = load(xs[r][c]), incoming = load(ds[r][c]);  // loads under a condition are not vectorised
        const A masked = value * factor + term <= 0 ? A(0) : incoming;
        sum += masked;
        product += masked * (value - middle);
        to[r][c] = store<T>(onto_source ? load(from[r][c]) + factor * masked : masked);
      }
      plain[c] = sum;
      weighted[c] = product;
    }
  });
}

// gradient * scale - c1 - (x - mean) * c2, where the terms c1 and c2 stem from the batch's own moments; or gradient * scale
// without terms.
template <class T>
void bn_gradient_rows(Matrix<const T> gradient, Matrix<const T> x, const Acc<T>* mean, const Acc<T>* scale,
                      Matrix<const Acc<T>> terms, Matrix<T> out, int64_t rows, int64_t channels) {
  by_four(rows, [=](auto number, int64_t row) {
    const auto ds = rows_from<number>(gradient, row);
    const auto xs = rows_from<number>(x, row);
    const auto to = rows_from<number>(out, row);
    if (!terms.data) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c)
        for (int r = 0; r < number; ++r) to[r][c] = store<T>(load(ds[r][c]) * scale[c]);
      return;
    }
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const Acc<T> factor = scale[c], middle = mean[c], first = terms.row(0)[c], second = terms.row(1)[c];
      for (int r = 0; r < number; ++r)
        to[r][c] = store<T>(load(ds[r][c]) * factor - first - (load(xs[r][c]) - middle) * second);
    }
  });
}

// The moments of one thread's rows, in two passes over each chunk.
template <class T>
class RowMoments {
 public:
  explicit RowMoments(int64_t channels) : all_(channels), chunk_(channels), means_(channels), squares_(channels) {}

  // Add a chunk; with `out`, x is copied there on the way.
  void add(Matrix<const T> x, Matrix<T> out, int64_t rows) {
    const int64_t channels = int64_t(means_.size());
    A* means = means_.data();  // as differences from the first row
    A* squares = squares_.data();
    const T* pivot = x.row(0);
    std::fill_n(means, channels, A(0));
    std::fill_n(squares, channels, A(0));
    by_four(rows, [=](auto number, int64_t row) {
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
    const A share = A(1) / A(rows);
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) means[c] *= share;
    by_four(rows, [=](auto number, int64_t row) {
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
    chunk_.count = double(rows);
    for (int64_t c = 0; c < channels; ++c) {
      chunk_.means[c] = double(load(pivot[c])) + means[c];
      chunk_.squares[c] = squares[c];
    }
    all_.join(chunk_);
  }

  // Write means and biased variances of all threads' rows, one after the other.
  static void write(const std::vector<RowMoments>& threads, double* moments) {
    Moments all = threads[0].all_;
    for (size_t thread = 1; thread < threads.size(); ++thread)
      if (threads[thread].all_.count) all.join(threads[thread].all_);
    const size_t channels = all.means.size();
    for (size_t c = 0; c < channels; ++c) {
      moments[c] = all.means[c];
      moments[channels + c] = all.squares[c] / all.count;
    }
  }

 private:
  using A = Acc<T>;
  Moments all_, chunk_;
  std::vector<A> means_, squares_;
};

}  // namespace densekit
