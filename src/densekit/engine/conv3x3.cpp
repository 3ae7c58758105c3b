// The 3x3 convolution of the fused dense block on a CPU, and its gradients.

#include "conv3x3_amx.hpp"
#include "exports.hpp"
#include "winograd_weight_gradient.hpp"

using namespace densekit;

namespace {

// Convolve, and call epilogue(thread, pixels, picture, h, w, number) for every line of pixels of every block.
template <class T, class Epilogue>
void convolve(const Conv3x3Size& size, Pixels<const T> x, Activation<T> activation, Kernels<const T> kernels,
              bool rotated, Epilogue epilogue) {
#ifdef HAS_TILES
  if constexpr (kTiles<T>)
    direct::convolve(size, x, activation, kernels, rotated, epilogue);
  else
#endif
    winograd::with_side<T>(size, [&](auto side) {
      winograd::convolve<T, side>(size, x, activation, {size, kernels, rotated}, epilogue);
    });
}

}  // namespace

template <class T>
void densekit::bnrelu_conv3x3(const Conv3x3Size& size, Pixels<const T> x, Activation<T> activation,
                              Kernels<const T> weights, Pixels<T> out, double* moments) {
  std::vector<RowMoments<T>> threads(moments ? size.threads : 0, RowMoments<T>(size.out));
  convolve<T>(size, x, activation, weights, false,
              [&](int thread, Matrix<const Acc<T>> line, int64_t n, int64_t h, int64_t w, int64_t pixels) {
                const Matrix<T> to = out.at(size, n, h, w);
                copy_rows(line, to, pixels, size.out);
                if (moments) threads[thread].add({to.data, to.stride}, {}, pixels);
              });
  if (moments) RowMoments<T>::write(threads, moments);
}

// The gradient of x, up to batch norm.
template <class T>
void densekit::bnrelu_conv3x3_gradient(const Conv3x3Size& size, Pixels<const T> dy, Pixels<const T> x,
                                       Activation<T> activation, const Acc<T>* mean, Kernels<const T> weights,
                                       Pixels<const T> source, Pixels<T> out, Acc<T>* sums) {
  using A = Acc<T>;
  const Conv3x3Size back{size.N, size.H, size.W, size.out, size.in, size.threads};  // that of the convolution of dy
  const auto step = source.data ? drelu_rows<T, true, A> : drelu_rows<T, false, A>;
  Sums<A> totals(size.in, size.threads);
  convolve<T>(back, dy, {nullptr, nullptr}, weights, true,
              [&](int thread, Matrix<const A> line, int64_t n, int64_t h, int64_t w, int64_t pixels) {
                A* plain = totals.chunk(thread);
                step(line, x.at(size, n, h, w), activation.scale, activation.shift, mean, source.at(size, n, h, w),
                     out.at(size, n, h, w), plain, plain + size.in, pixels, size.in);
                totals.add(thread);
              });
  totals.write(sums);
}

namespace {

// By the definition: NaN and infinity reach only the weights whose sums contain them.
template <class T>
void weight_gradient_by_definition(const Conv3x3Size& size, Pixels<const T> dy, Pixels<const T> x,
                                   Activation<T> activation, Kernels<Acc<T>> weights) {
  const auto make = [&] { return std::tuple(Scratch<double>(size.out * size.in), Scratch<Acc<T>>(size.in)); };
  in_parallel(size.threads, make, [&](const Scratch<double>& sums, const Scratch<Acc<T>>& pixel) {
#pragma omp for schedule(static)
    for (int tap = 0; tap < 9; ++tap) {
      std::fill_n(sums.data(), size.out * size.in, 0.0);
      for (int64_t line = 0; line < size.N * size.H; ++line) {
        const int64_t n = line / size.H, h = line % size.H, i = h + tap / 3 - 1;
        for (int64_t w = 0; w < size.W; ++w) {
          const int64_t j = w + tap % 3 - 1;
          if (i < 0 || i >= size.H || j < 0 || j >= size.W) continue;
          activation.apply(x.at(size, n, i, j), Matrix<Acc<T>>{pixel.data(), size.in}, 1, size.in);
          for (int64_t out = 0; out < size.out; ++out) {
            const Acc<T> factor = load(dy.at(size, n, h, w).data[out]);
            for (int64_t in = 0; in < size.in; ++in) sums[out * size.in + in] += factor * pixel[in];
          }
        }
        if (count_nan(sums.data(), size.out * size.in) == size.out * size.in) break;  // and NaN they stay
      }
      for (int64_t out = 0; out < size.out; ++out)
        for (int64_t in = 0; in < size.in; ++in) weights.at(out, in, tap) = Acc<T>(sums[out * size.in + in]);
    }
  });
}

}  // namespace

template <class T>
void densekit::conv3x3_weight_gradient(const Conv3x3Size& size, Pixels<const T> dy, Pixels<const T> x,
                                       Activation<T> activation, Kernels<Acc<T>> weights) {
#ifdef HAS_TILES
  if constexpr (kTiles<T>) {
    if (!direct::weight_gradient(size, dy, x, activation, weights))
      weight_gradient_by_definition(size, dy, x, activation, weights);
  } else
#endif
    winograd::with_side<T>(size, [&](auto side) {
      Conv3x3Size slice = size;
      for (int64_t first = 0; first < size.in; first += slice.in) {
        slice.in = std::min(winograd::slice<T>(size.in), size.in - first);
        const auto gradient = [&](auto function) {
          return function(slice, dy, x.channels(first), activation.from(first), weights.channels(first));
        };
        if (!gradient(winograd::weight_gradient<T, side>)) gradient(weight_gradient_by_definition<T>);
      }
    });
}

EXPORT(bnrelu_conv3x3)
EXPORT(bnrelu_conv3x3_gradient)
EXPORT(conv3x3_weight_gradient)
