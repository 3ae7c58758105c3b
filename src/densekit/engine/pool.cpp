// Batch norm, ReLU and pooling on a CPU in one pass, and back: the 2x2 mean of transitions, and the maximum of 3x3 pixels
// with stride 2 of stems. A line of pixels at a time is in the cache.

#include <limits>

#include "exports.hpp"
#include "rows_avx512_bf16.hpp"
#include "scratch.hpp"

using namespace densekit;

namespace {

template <class T>
using Bits = std::conditional_t<sizeof(Acc<T>) == 8, int64_t, int32_t>;

// Call pool_line(n, line, values, space for the bits of a pixel) for every line of the result, and store the values.
template <class T, class PoolLine>
void pool(const PoolSize& size, Lines<T> out, PoolLine pool_line) {
  using A = Acc<T>;
  const auto make = [&] { return std::tuple(Scratch<A>(out.W * size.channels), Scratch<Bits<T>>(size.channels)); };
  in_parallel(size.threads, make, [&](const Scratch<A>& room, const Scratch<Bits<T>>& bits) {
    const Matrix<A> values{room.data(), size.channels};
#pragma omp for schedule(static)
    for (int64_t line = 0; line < size.N * out.H; ++line) {
      const int64_t n = line / out.H, h = line % out.H;
      pool_line(n, h, values, bits.data());
      copy_rows(Matrix<const A>{values.data, values.stride}, out.line(n, h), out.W, size.channels);
    }
  });
}

// Call spread(n, h, gradient) for every line of x, and mask the gradient; `sums` are those of `drelu_rows`.
template <class T, class Spread>
void pool_gradient(const PoolSize& size, Lines<const T> x, Activation<T> activation, const Acc<T>* mean, Lines<T> out,
                   Acc<T>* sums, Spread spread) {
  using A = Acc<T>;
  Sums<A> totals(size.channels, size.threads);
  const auto make = [&] { return std::tuple(Scratch<A>(size.W * size.channels)); };
  in_parallel(size.threads, make, [&](const Scratch<A>& gradient) {
    const int thread = omp_get_thread_num();
#pragma omp for schedule(static)
    for (int64_t line = 0; line < size.N * size.H; ++line) {
      const int64_t n = line / size.H, h = line % size.H;
      spread(n, h, Matrix<A>{gradient.data(), size.channels});
      A* plain = totals.chunk(thread);
      drelu_rows<T, false, A>({gradient.data(), size.channels}, x.line(n, h), activation.scale, activation.shift, mean, {},
                              out.line(n, h), plain, plain + size.channels, size.W, size.channels);
      totals.add(thread);
    }
  });
  totals.write(sums);
}

}  // namespace

template <class T>
void densekit::bnrelu_avg_pool(const PoolSize& size, Lines<const T> x, Activation<T> activation, Lines<T> out) {
  using A = Acc<T>;
  pool<T>(size, out, [=](int64_t n, int64_t h, Matrix<A> values, Bits<T>*) {
    const Matrix<const T> above = x.line(n, 2 * h), below = x.line(n, 2 * h + 1);
    for (int64_t w = 0; w < out.W; ++w) {
      const T *a = above.row(2 * w), *b = above.row(2 * w + 1), *c = below.row(2 * w), *d = below.row(2 * w + 1);
      A* to = values.row(w);
#pragma omp simd
      for (int64_t i = 0; i < size.channels; ++i) {
        const A scale = activation.scale[i], shift = activation.shift[i];
        const auto value = [=](T pixel) { return relu(load(pixel) * scale + shift); };
        to[i] = (value(a[i]) + value(b[i]) + value(c[i]) + value(d[i])) / 4;
      }
    }
  });
}

template <class T>
void densekit::bnrelu_avg_pool_backward(const PoolSize& size, Lines<const T> dpooled, Lines<const T> x,
                                        Activation<T> activation, const Acc<T>* mean, Lines<T> out, Acc<T>* sums) {
  using A = Acc<T>;
  pool_gradient<T>(size, x, activation, mean, out, sums, [=](int64_t n, int64_t h, Matrix<A> gradient) {
    const bool pooled = h / 2 < dpooled.H;  // an odd last line or column was left out
    for (int64_t w = 0; w < size.W; ++w) {
      A* to = gradient.row(w);
      if (!pooled || w / 2 >= dpooled.W) {
        std::fill_n(to, size.channels, A(0));
        continue;
      }
      const T* from = dpooled.line(n, h / 2).row(w / 2);
#pragma omp simd
      for (int64_t i = 0; i < size.channels; ++i) to[i] = load(from[i]) / 4;
    }
  });
}

namespace {

// The pixels whose maximum is taken, and their indices in the 3x3 window; beyond the edge, the nearest pixel inside again.
template <class T>
struct Window {
  const T* pixels[9];
  int indices[9];

  Window(Lines<const T> x, int64_t n, int64_t h, int64_t w) {
    for (int64_t number = 0; number < 9; ++number) {
      const int64_t i = std::clamp<int64_t>(2 * h - 1 + number / 3, 0, x.H - 1);
      const int64_t j = std::clamp<int64_t>(2 * w - 1 + number % 3, 0, x.W - 1);
      pixels[number] = x.line(n, i).row(j);
      indices[number] = int(3 * (i - 2 * h + 1) + j - 2 * w + 1);
    }
  }
};

// The results of a ReLU are ordered like their bits, with NaN above infinity, as PyTorch orders them. So the bits are
// compared as integers: compilers vectorise that, but not comparisons of floats that may be NaN.
template <class T, bool locates>
void largest(const Window<T>& window, Activation<T> activation, Acc<T>* out, Bits<T>* indices, int64_t channels) {
  using A = Acc<T>;
#pragma omp simd
  for (int64_t c = 0; c < channels; ++c) {
    const A scale = activation.scale[c], shift = activation.shift[c];
    Bits<T> most = -1, place = 0;
    for (int number = 0; number < 9; ++number) {
      const A value = relu(load(window.pixels[number][c]) * scale + shift);
      const Bits<T> bits = std::bit_cast<Bits<T>>(value) & std::numeric_limits<Bits<T>>::max();
      place = bits > most ? window.indices[number] : place;
      most = bits > most ? bits : most;
    }
    out[c] = std::bit_cast<A>(most);
    if (locates) indices[c] = place;
  }
}

template <class T>
void shorten(const T* values, uint8_t* to, int64_t number) {
#pragma omp simd
  for (int64_t i = 0; i < number; ++i) to[i] = uint8_t(values[i]);
}

}  // namespace

template <class T>
void densekit::bnrelu_max_pool(const PoolSize& size, Lines<const T> x, Activation<T> activation, Lines<T> out,
                               uint8_t* indices) {
  pool<T>(size, out, [=](int64_t n, int64_t h, Matrix<Acc<T>> values, Bits<T>* found) {
    for (int64_t w = 0; w < out.W; ++w) {
      const Window<T> window(x, n, h, w);
      if (!indices) {
        largest<T, false>(window, activation, values.row(w), nullptr, size.channels);
        continue;
      }
      largest<T, true>(window, activation, values.row(w), found, size.channels);
      shorten(found, indices + ((n * out.H + h) * out.W + w) * size.channels, size.channels);
    }
  });
}

template <class T>
void densekit::bnrelu_max_pool_backward(const PoolSize& size, Lines<const T> dpooled, const uint8_t* indices,
                                        Lines<const T> x, Activation<T> activation, const Acc<T>* mean, Lines<T> out,
                                        Acc<T>* sums) {
  using A = Acc<T>;
  pool_gradient<T>(size, x, activation, mean, out, sums, [=](int64_t n, int64_t h, Matrix<A> gradient) {
    std::fill_n(gradient.data, size.W * size.channels, A(0));
    for (int64_t i = h / 2; i <= (h + 1) / 2 && i < dpooled.H; ++i) {
      for (int64_t w = 0; w < size.W; ++w) {
        A* to = gradient.row(w);
        for (int64_t j = w / 2; j <= (w + 1) / 2 && j < dpooled.W; ++j) {
          const T* from = dpooled.line(n, i).row(j);
          const uint8_t* codes = indices + ((n * dpooled.H + i) * dpooled.W + j) * size.channels;
          const uint8_t place = uint8_t(3 * (h - 2 * i + 1) + w - 2 * j + 1);
#pragma omp simd
          for (int64_t c = 0; c < size.channels; ++c) to[c] += codes[c] == place ? load(from[c]) : A(0);
        }
      }
    }
  });
}

EXPORT(bnrelu_avg_pool)
EXPORT(bnrelu_avg_pool_backward)
EXPORT(bnrelu_max_pool)
EXPORT(bnrelu_max_pool_backward)
