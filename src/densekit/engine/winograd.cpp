// The 3x3 convolution of the fused dense block on a CPU, and its gradients, by Winograd's F(2x2, 3x3), with 16
// multiplications where the definition has 36, or F(4x4, 3x3), with 36 for 144: Lavin and Gray, Fast Algorithms for
// Convolutional Neural Networks, 2016, section 4.
//
// Every tile of the result comes from a patch of the input that is larger by a border of one. Patches, weights and tiles
// each have as many transformed values ("frequencies") as a patch has pixels, and for each of these the convolution is a
// matrix product over channels. A block of tiles goes through all of it while it is in the second-level cache: batch norm
// and ReLU of its pixels, transforms, products, and what becomes of the result. Layouts: patches (frequencies, tiles,
// channels in), weights (frequencies, in, out), results (frequencies, tiles, out).

#include "winograd.hpp"

using namespace densekit;

namespace {

// Convolve, and call finish(thread, pixels, picture, h, w, number) for every line of pixels of every block.
template <class T, class Finish>
void convolve(const ConvolutionSize& size, Pixels<const T> x, Activation<T> activation, Weights<T> weights,
              Finish finish) {
  const Grid<T> grid(size);
#pragma omp parallel num_threads(size.threads)
  {
    Patches<T> patches(size, grid);
    Result<T> result(size, grid);
#pragma omp for schedule(static)
    for (int64_t in = 0; in < size.in; ++in) weights.transform(in);
#pragma omp for schedule(static)
    for (int64_t number = 0; number < grid.count; ++number) {
      const Block block = grid.block(number);
      patches.read(x, activation, block);
      result.compute(patches, weights, block);
      const int64_t w = kSide<T> * block.left, pixels = std::min(kSide<T> * block.width, size.W - w);
      grid.for_parts(block, [&](Part part) {
        const int64_t top = kSide<T> * part.top, lines = std::min(kSide<T> * part.lines, size.H - top);
        for (int64_t line = 0; line < lines; ++line)
          finish(omp_get_thread_num(), result.line(block, kSide<T> * part.above + line), part.picture, top + line, w,
                 pixels);
      });
    }
  }
}

}  // namespace

template <class T>
void densekit::bnrelu_convolve(const ConvolutionSize& size, Pixels<const T> x, Activation<T> activation,
                               Kernels<const T> weights, Pixels<T> out, double* moments) {
  std::vector<RowMoments<T>> threads(moments ? size.threads : 0, RowMoments<T>(size.out));
  convolve<T>(size, x, activation, {size, weights, false},
              [&](int thread, Matrix<const Acc<T>> line, int64_t n, int64_t h, int64_t w, int64_t pixels) {
                const Matrix<T> to = out.at(size, n, h, w);
                copy_rows(line, to, pixels, size.out);
                if (moments) threads[thread].add({to.data, to.stride}, {}, pixels);
              });
  if (moments) RowMoments<T>::write(threads, moments);
}

// The gradient of x, up to batch norm.
template <class T>
void densekit::bnrelu_convolve_gradient(const ConvolutionSize& size, Pixels<const T> dy, Pixels<const T> x,
                                        Activation<T> activation, const Acc<T>* mean, Kernels<const T> weights,
                                        Pixels<const T> source, Pixels<T> out, Acc<T>* sums) {
  using A = Acc<T>;
  const ConvolutionSize back{size.N, size.H, size.W, size.out, size.in, size.threads};  // that of the convolution of dy
  const auto step = source.data ? drelu_rows<T, true, A> : drelu_rows<T, false, A>;
  Sums<A> totals(size.in, size.threads);
  convolve<T>(back, dy, {nullptr, nullptr}, {back, weights, true},
              [&](int thread, Matrix<const A> line, int64_t n, int64_t h, int64_t w, int64_t pixels) {
                A* plain = totals.chunk(thread);
                step(line, x.at(size, n, h, w), activation.scale, activation.shift, mean, source.at(size, n, h, w),
                     out.at(size, n, h, w), plain, plain + size.in, pixels, size.in);
                totals.add(thread);
              });
  totals.write(sums);
}

namespace {

// A tile of dy, from pixel (h, w) on, as frequencies: the transpose of what makes pixels of them.
template <class T>
void transform_gradient(const ConvolutionSize& size, Pixels<const T> dy, int64_t n, int64_t h, int64_t w,
                        const T* zeros, Acc<T>* to, int64_t plane) {
  using A = Acc<T>;
  constexpr int side = kSide<T>, patch = kPatch<T>;
  const T* pixels[side][side];
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j)
      pixels[i][j] = h + i < size.H && w + j < size.W ? dy.at(size, n, h + i, w + j).data : zeros;
#pragma omp simd
  for (int64_t c = 0; c < size.out; ++c) {
    A columns[side][patch], line[patch], values[patch];
    for (int j = 0; j < side; ++j) {
      for (int i = 0; i < side; ++i) line[i] = load(pixels[i][j][c]);
      Winograd<side>::result_back(line, columns[j]);
    }
    for (int i = 0; i < patch; ++i) {
      for (int j = 0; j < side; ++j) line[j] = columns[j][i];
      Winograd<side>::result_back(line, values);
      for (int j = 0; j < patch; ++j) to[(patch * i + j) * plane + c] = values[j];
    }
  }
}

// Sums of products of frequencies (.., out, in), back to weights, for one channel out; false if one is not finite.
template <class T>
bool write_weights(const ConvolutionSize& size, const Acc<T>* sums, int64_t plane, int64_t width, int64_t out,
                   Kernels<Acc<T>> weights) {
  using A = Acc<T>;
  constexpr int patch = kPatch<T>;
  A check = 0;
  for (int64_t first = 0; first < size.in; first += kLanes<A>) {
    Vector<A> columns[patch][3], line[patch], taps[9];
    for (int j = 0; j < patch; ++j) {
      for (int i = 0; i < patch; ++i) line[i] = get(sums + (patch * i + j) * plane + out * width + first);
      Winograd<kSide<T>>::weight_back(line, columns[j]);
    }
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < patch; ++j) line[j] = columns[j][i];
      Winograd<kSide<T>>::weight_back(line, taps + 3 * i);
    }
    for (int64_t lane = 0; lane < std::min(kLanes<A>, size.in - first); ++lane) {
      for (int tap = 0; tap < 9; ++tap) {
        weights.at(out, first + lane, tap) = taps[tap][lane];
        check += taps[tap][lane] * A(0);
      }
    }
  }
  return check == 0;
}

// As `compute_by_definition` of a result.
template <class T>
void weight_gradient_by_definition(const ConvolutionSize& size, Pixels<const T> dy, Pixels<const T> x,
                                   Activation<T> activation, Kernels<Acc<T>> weights) {
#pragma omp parallel for schedule(static) num_threads(size.threads)
  for (int tap = 0; tap < 9; ++tap) {
    std::vector<double> sums(size.out * size.in);
    std::vector<Acc<T>> pixel(size.in);
    for (int64_t n = 0; n < size.N; ++n) {
      for (int64_t h = 0; h < size.H; ++h) {
        for (int64_t w = 0; w < size.W; ++w) {
          const int64_t i = h + tap / 3 - 1, j = w + tap % 3 - 1;
          if (i < 0 || i >= size.H || j < 0 || j >= size.W) continue;
          activation.apply(x.at(size, n, i, j), Matrix<Acc<T>>{pixel.data(), size.in}, 1, size.in);
          for (int64_t out = 0; out < size.out; ++out) {
            const Acc<T> factor = load(dy.at(size, n, h, w).data[out]);
            for (int64_t in = 0; in < size.in; ++in) sums[out * size.in + in] += factor * pixel[in];
          }
        }
      }
    }
    for (int64_t out = 0; out < size.out; ++out)
      for (int64_t in = 0; in < size.in; ++in) weights.at(out, in, tap) = Acc<T>(sums[out * size.in + in]);
  }
}

}  // namespace

template <class T>
void densekit::weight_gradient(const ConvolutionSize& size, Pixels<const T> dy, Pixels<const T> x,
                               Activation<T> activation, Kernels<Acc<T>> weights) {
  using A = Acc<T>;
  const Grid<T> grid(size);
  const int64_t width = spread<A>(size.in), dy_width = spread<A>(size.out);
  const int64_t sums_plane = spread<A>(size.out * width), length = kFrequencies<T> * sums_plane;
  const Scratch<A> sums(size.threads * length);
  const std::vector<T> zeros(size.out);
  bool finite = true;
#pragma omp parallel num_threads(size.threads)
  {
    Patches<T> patches(size, grid);
    const Scratch<A> gradients(kFrequencies<T> * spread<A>(grid.lines * grid.width * dy_width));
    A* own = &sums[omp_get_thread_num() * length];
    bool begun = false;
#pragma omp for schedule(static) nowait
    for (int64_t number = 0; number < grid.count; ++number) {
      const Block block = grid.block(number);
      const int64_t plane = spread<A>(block.tiles() * dy_width);
      patches.read(x, activation, block);
      for (int64_t tile = 0; tile < block.tiles(); ++tile) {
        const int64_t line = block.first + tile / block.width, column = block.left + tile % block.width;
        transform_gradient(size, dy, line / grid.H, kSide<T> * (line % grid.H), kSide<T> * column, zeros.data(),
                           &gradients[tile * dy_width], plane);
      }
      const auto into = begun ? multiply<true, A, A> : multiply<false, A, A>;
      for (int f = 0; f < kFrequencies<T>; ++f)
        into({&gradients[f * plane], 1, dy_width}, Panels<A>::of(patches.frequency(f)), {own + f * sums_plane, width},
             size.out, whole_vectors<A>(size.in), block.tiles());
      begun = true;
    }
    if (!begun) std::fill_n(own, length, A(0));
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t i = 0; i < length; ++i)
      for (int thread = 1; thread < omp_get_num_threads(); ++thread) sums[i] += sums[thread * length + i];
#pragma omp for schedule(static) reduction(&& : finite)
    for (int64_t out = 0; out < size.out; ++out)
      finite = write_weights<T>(size, sums.data(), sums_plane, width, out, weights) && finite;
  }
  if (!finite) weight_gradient_by_definition(size, dy, x, activation, weights);
}

#define DEFINE(T, NAME)                                                                                                \
  extern "C" void bnrelu_convolve_##NAME(const T* x, int64_t x_stride, const Acc<T>* scale, const Acc<T>* shift,       \
                                         const T* weights, int64_t s0, int64_t s1, int64_t s2, int64_t s3, T* out,     \
                                         int64_t out_stride, double* moments, int64_t N, int64_t H, int64_t W,         \
                                         int64_t in, int64_t out_channels, int threads) {                              \
    bnrelu_convolve<T>({N, H, W, in, out_channels, threads}, {x, x_stride}, {scale, shift},                            \
                       {weights, {s0, s1, s2, s3}}, {out, out_stride}, moments);                                       \
  }                                                                                                                    \
  extern "C" void bnrelu_convolve_gradient_##NAME(                                                                     \
      const T* dy, int64_t dy_stride, const T* x, int64_t x_stride, const Acc<T>* scale, const Acc<T>* shift,          \
      const Acc<T>* mean, const T* weights, int64_t s0, int64_t s1, int64_t s2, int64_t s3, const T* source,           \
      int64_t source_stride, T* out, int64_t out_stride, Acc<T>* sums, int64_t N, int64_t H, int64_t W, int64_t in,    \
      int64_t out_channels, int threads) {                                                                             \
    bnrelu_convolve_gradient<T>({N, H, W, in, out_channels, threads}, {dy, dy_stride}, {x, x_stride}, {scale, shift},  \
                                mean, {weights, {s0, s1, s2, s3}}, {source, source_stride}, {out, out_stride}, sums);  \
  }                                                                                                                    \
  extern "C" void weight_gradient_##NAME(const T* dy, int64_t dy_stride, const T* x, int64_t x_stride,                 \
                                         const Acc<T>* scale, const Acc<T>* shift, Acc<T>* weights, int64_t s0,        \
                                         int64_t s1, int64_t s2, int64_t s3, int64_t N, int64_t H, int64_t W,          \
                                         int64_t in, int64_t out_channels, int threads) {                              \
    weight_gradient<T>({N, H, W, in, out_channels, threads}, {dy, dy_stride}, {x, x_stride}, {scale, shift},           \
                       {weights, {s0, s1, s2, s3}});                                                                   \
  }                                                                                                                    \
  template decltype(bnrelu_convolve<T>) densekit::bnrelu_convolve<T>;                                                  \
  template decltype(bnrelu_convolve_gradient<T>) densekit::bnrelu_convolve_gradient<T>;                                \
  template decltype(weight_gradient<T>) densekit::weight_gradient<T>;

DEFINE(double, float64)
DEFINE(float, float32)
#ifndef __AMX_BF16__  // with which oneDNN multiplies bfloat16 several times as fast as it could be done here
DEFINE(bfloat16, bfloat16)
#endif
