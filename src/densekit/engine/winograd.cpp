// The 3x3 convolution of the fused dense block on a CPU, and its gradients, with 16 multiplications where the definition
// has 36: F(2x2, 3x3) of Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1.
//
// Every 2x2 tile of the result comes from a 4x4 patch of the input. Patches, weights and tiles each have 16 transformed
// values ("frequencies"), and for each of these the convolution is a matrix product over channels. A block of tiles goes
// through all of it while it is in the second-level cache: batch norm and ReLU of its pixels, transforms, products, and
// what becomes of the result. Layouts: patches (16, tiles, channels in), weights (16, in, out), results (16, tiles, out).

#include "winograd.hpp"

using namespace densekit;

namespace {

// Convolve, and call finish(thread, pixels, picture, h, w, number) for every line of pixels of every block.
template <class T, class Finish>
void convolve(const Size& size, Pixels<const T> x, Activation<T> activation, Weights<T> weights, Finish finish) {
  const Grid grid = Grid::of(size, T());
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
      const int64_t w = 2 * block.left, pixels = std::min(2 * block.width, size.W - w);
      for (int64_t line = 0; line < 2 * block.height && 2 * block.top + line < size.H; ++line)
        finish(omp_get_thread_num(), result.line(block, line), block.picture, 2 * block.top + line, w, pixels);
    }
  }
}

template <class T>
void bnrelu_convolve(const Size& size, Pixels<const T> x, Activation<T> activation, Kernels<T> weights, Pixels<T> out,
                     double* moments) {
  std::vector<RowMoments<T>> threads(moments ? size.threads : 0, RowMoments<T>(size.out));
  convolve<T>(size, x, activation, {size, weights, false},
              [&](int thread, Matrix<const T> line, int64_t n, int64_t h, int64_t w, int64_t pixels) {
                const Matrix<T> to = out.at(size, n, h, w);
                if (moments)
                  threads[thread].add(line, to, pixels);
                else
                  for (int64_t pixel = 0; pixel < pixels; ++pixel)
                    std::copy_n(line.row(pixel), size.out, to.row(pixel));
              });
  if (moments) RowMoments<T>::write(threads, moments);
}

// The gradient of x, up to batch norm. `size` is that of the convolution of dy: its channels out are those of x.
template <class T>
void bnrelu_convolve_gradient(const Size& size, Pixels<const T> dy, Pixels<const T> x, Activation<T> activation,
                              const T* mean, Kernels<T> weights, Pixels<const T> source, Pixels<T> out, T* sums) {
  const auto step = source.data ? drelu_rows<T, true> : drelu_rows<T, false>;
  Sums<T> totals(size.out, size.threads);
  convolve<T>(size, dy, {nullptr, nullptr}, {size, weights, true},
              [&](int thread, Matrix<const T> line, int64_t n, int64_t h, int64_t w, int64_t pixels) {
                T* plain = totals.chunk(thread);
                step(line, x.at(size, n, h, w), activation.scale, activation.shift, mean, source.at(size, n, h, w),
                     out.at(size, n, h, w), plain, plain + size.out, pixels, size.out);
                totals.add(thread);
              });
  totals.write(sums);
}

// A tile of dy as frequencies: the transpose of what makes pixels of them.
template <class T>
void transform_gradient(const Size& size, Pixels<const T> dy, int64_t n, int64_t h, int64_t w, const T* zeros, T* to,
                        int64_t plane) {
  const bool right = w + 1 < size.W, below = h + 1 < size.H;
  const T* a = dy.at(size, n, h, w).data;
  const T* b = right ? a + dy.stride : zeros;
  const T* c = below ? dy.at(size, n, h + 1, w).data : zeros;
  const T* d = right && below ? c + dy.stride : zeros;
#pragma omp simd
  for (int64_t i = 0; i < size.out; ++i) {
    const T rows[4][2] = {{a[i], b[i]}, {a[i] + c[i], b[i] + d[i]}, {a[i] - c[i], b[i] - d[i]}, {-c[i], -d[i]}};
    for (int r = 0; r < 4; ++r) {
      T* line = to + 4 * r * plane + i;
      line[0] = rows[r][0];
      line[plane] = rows[r][0] + rows[r][1];
      line[2 * plane] = rows[r][0] - rows[r][1];
      line[3 * plane] = -rows[r][1];
    }
  }
}

// Sums of products of frequencies (16, out, in), back to weights (out, in, 3, 3).
template <class T>
void write_weights(const Size& size, const T* sums, int64_t width, T* weights) {
  const auto back = [](T a, T b, T c, T d, T* to) {
    to[0] = a + (b + c) / 2, to[1] = (b - c) / 2, to[2] = (b + c) / 2 + d;
  };
  const int64_t step = size.out * width;
  for (int64_t out = 0; out < size.out; ++out) {
    for (int64_t in = 0; in < size.in; ++in) {
      T columns[4][3], *to = weights + (out * size.in + in) * 9;
      for (int j = 0; j < 4; ++j) {
        const T* f = sums + j * step + out * width + in;
        back(f[0], f[4 * step], f[8 * step], f[12 * step], columns[j]);
      }
      for (int i = 0; i < 3; ++i) back(columns[0][i], columns[1][i], columns[2][i], columns[3][i], to + 3 * i);
    }
  }
}

template <class T>
void weight_gradient(const Size& size, Pixels<const T> dy, Pixels<const T> x, Activation<T> activation, T* weights) {
  const Grid grid = Grid::of(size, T());
  const int64_t width = spread<T>(size.in), dy_width = spread<T>(size.out), length = 16 * size.out * width;
  std::vector<T> sums(size.threads * length);
  const std::vector<T> zeros(size.out);
#pragma omp parallel num_threads(size.threads)
  {
    Patches<T> patches(size, grid);
    std::vector<T> gradients(16 * spread<T>(grid.height * grid.width * dy_width));
    T* own = &sums[omp_get_thread_num() * length];
#pragma omp for schedule(static)
    for (int64_t number = 0; number < grid.count; ++number) {
      const Block block = grid.block(number);
      const int64_t plane = spread<T>(block.tiles() * dy_width);
      patches.read(x, activation, block);
      for (int64_t tile = 0; tile < block.tiles(); ++tile)
        transform_gradient(size, dy, block.picture, 2 * (block.top + tile / block.width),
                           2 * (block.left + tile % block.width), zeros.data(), &gradients[tile * dy_width], plane);
      for (int f = 0; f < 16; ++f)
        multiply<true, T>({&gradients[f * plane], 1, dy_width}, Panels<T>::of(patches.frequency(f)),
                          {own + f * size.out * width, width}, size.out, whole_vectors<T>(size.in), block.tiles());
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < length; ++i)
      for (int thread = 1; thread < size.threads; ++thread) sums[i] += sums[thread * length + i];
  }
  write_weights(size, sums.data(), width, weights);
}

}  // namespace

#define DEFINE(T, NAME)                                                                                                \
  extern "C" void bnrelu_convolve_##NAME(const T* x, int64_t x_stride, const T* scale, const T* shift,                 \
                                         const T* weights, int64_t s0, int64_t s1, int64_t s2, int64_t s3, T* out,     \
                                         int64_t out_stride, double* moments, int64_t N, int64_t H, int64_t W,         \
                                         int64_t in, int64_t out_channels, int threads) {                              \
    bnrelu_convolve<T>({N, H, W, in, out_channels, threads}, {x, x_stride}, {scale, shift},                            \
                       {weights, {s0, s1, s2, s3}}, {out, out_stride}, moments);                                       \
  }                                                                                                                    \
  extern "C" void bnrelu_convolve_gradient_##NAME(                                                                     \
      const T* dy, int64_t dy_stride, const T* x, int64_t x_stride, const T* scale, const T* shift, const T* mean,     \
      const T* weights, int64_t s0, int64_t s1, int64_t s2, int64_t s3, const T* source, int64_t source_stride,        \
      T* out, int64_t out_stride, T* sums, int64_t N, int64_t H, int64_t W, int64_t in, int64_t out_channels,          \
      int threads) {                                                                                                   \
    bnrelu_convolve_gradient<T>({N, H, W, out_channels, in, threads}, {dy, dy_stride}, {x, x_stride}, {scale, shift},  \
                                mean, {weights, {s0, s1, s2, s3}}, {source, source_stride}, {out, out_stride}, sums);  \
  }                                                                                                                    \
  extern "C" void weight_gradient_##NAME(const T* dy, int64_t dy_stride, const T* x, int64_t x_stride, const T* scale, \
                                         const T* shift, T* weights, int64_t N, int64_t H, int64_t W, int64_t in,      \
                                         int64_t out_channels, int threads) {                                          \
    weight_gradient<T>({N, H, W, in, out_channels, threads}, {dy, dy_stride}, {x, x_stride}, {scale, shift}, weights); \
  }

DEFINE(double, float64)
DEFINE(float, float32)
