// The 1x1 convolution of the fused dense block on a CPU, a product of activated rows, and its gradients.
//
// A block of rows goes through all of it while it is in the second-level cache: batch norm and ReLU, products, and what
// becomes of the result.

#include "multiply.hpp"

using namespace densekit;

namespace {

struct Size {
  int64_t rows, in, out;  // channels in and out
  int threads;
};

// Rows of a block: about as many as wanted, and the same number of blocks for every thread.
int64_t block_rows(const Size& size, int64_t wanted) {
  const int64_t rounds = std::max<int64_t>(1, (size.rows + wanted * size.threads - 1) / (wanted * size.threads));
  return std::max<int64_t>(1, (size.rows + rounds * size.threads - 1) / (rounds * size.threads));
}

template <class T>
void bnrelu_product(const Size& size, Matrix<const T> x, Activation<T> activation, const T* weights, T* out,
                    double* moments) {
  const int64_t in_width = spread<T>(size.in), out_width = spread<T>(size.out);
  const int64_t length = block_rows(size, std::clamp<int64_t>((1 << 18) / (in_width * sizeof(T)), 24, 192));
  Packed<T> packed(size.in, size.out);
  std::vector<RowMoments<T>> threads(moments ? size.threads : 0, RowMoments<T>(size.out));
#pragma omp parallel num_threads(size.threads)
  {
    std::vector<T> activated(length * in_width), result(length * out_width);
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < packed.count(); ++panel)
      packed.pack(panel, [=](int64_t in, int64_t out) { return weights[out * size.in + in]; });
#pragma omp for schedule(static)
    for (int64_t first = 0; first < size.rows; first += length) {
      const int64_t rows = std::min(length, size.rows - first);
      activation.apply({x.row(first), x.stride}, {activated.data(), in_width}, rows, size.in);
      multiply<false, T>({activated.data(), in_width, 1}, packed.panels(), {result.data(), out_width}, rows,
                         whole_vectors<T>(size.out), size.in);
      const Matrix<T> to{out + first * size.out, size.out};
      if (moments)
        threads[omp_get_thread_num()].add({result.data(), out_width}, to, rows);
      else
        for (int64_t row = 0; row < rows; ++row) std::copy_n(&result[row * out_width], size.out, to.row(row));
    }
  }
  if (moments) RowMoments<T>::write(threads, moments);
}

constexpr int64_t kSlice = 128;  // columns: slices of x, of the weights and of both gradients are in the cache together

template <class T>
void product_backward(const Size& size, Matrix<const T> dz, const T* weights, Matrix<const T> x,
                      Activation<T> activation, const T* mean, Matrix<const T> source, Matrix<T> out, T* dweights,
                      T* sums) {
  const int64_t length = block_rows(size, 192), dz_width = spread<T>(size.out), width = spread<T>(kSlice);
  const auto step = out.data ? drelu_rows<T, true> : drelu_rows<T, false>;
  Packed<T> packed(size.out, size.in);
  const int64_t own_width = spread<T>(size.in);
  std::vector<T> products(size.threads * size.out * own_width);  // every thread's gradient of the weights
  Sums<T> totals(size.in, size.threads);
#pragma omp parallel num_threads(size.threads)
  {
    const int thread = omp_get_thread_num();
    std::vector<T> activated(length * width), gradient(length * dz_width);
    const Matrix<T> buffer{activated.data(), width};
    T* own = &products[thread * size.out * own_width];
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < packed.count(); ++panel)
      packed.pack(panel, [=](int64_t out, int64_t in) { return weights[out * size.in + in]; });
#pragma omp for schedule(static)
    for (int64_t first = 0; first < size.rows; first += length) {
      const int64_t rows = std::min(length, size.rows - first);
      for (int64_t row = 0; row < rows; ++row) std::copy_n(dz.row(first + row), size.out, &gradient[row * dz_width]);
      T* plain = totals.chunk(thread);
      for (int64_t c = 0; c < size.in; c += kSlice) {
        const int64_t columns = std::min(kSlice, size.in - c), n = whole_vectors<T>(columns);
        const Matrix<const T> from{x.row(first) + c, x.stride};
        const T *scale = activation.scale + c, *shift = activation.shift + c;
        bnrelu_rows<T>(from, scale, shift, buffer, rows, columns);
        multiply<true, T>({gradient.data(), 1, dz_width}, Panels<T>::of({activated.data(), width}), {own + c, own_width},
                          size.out, n, rows);
        multiply<false, T>({gradient.data(), dz_width, 1}, packed.panels(c), buffer, rows, n, size.out);
        const Matrix<const T> onto{out.data ? source.row(first) + c : nullptr, source.stride};
        const Matrix<T> to = out.data ? Matrix<T>{out.row(first) + c, out.stride} : buffer;
        step({activated.data(), width}, from, scale, shift, mean + c, onto, to, plain + c, plain + size.in + c, rows,
             columns);
      }
      totals.add(thread);
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < size.out; ++row) {
      T* to = dweights + row * size.in;
      std::copy_n(&products[row * own_width], size.in, to);
      for (int other = 1; other < size.threads; ++other)
        for (int64_t in = 0; in < size.in; ++in) to[in] += products[(other * size.out + row) * own_width + in];
    }
  }
  totals.write(sums);
}

}  // namespace

#define DEFINE(T, NAME)                                                                                                \
  extern "C" void bnrelu_product_##NAME(const T* x, int64_t x_stride, const T* scale, const T* shift,                  \
                                        const T* weights, T* out, double* moments, int64_t rows, int64_t in,           \
                                        int64_t out_channels, int threads) {                                           \
    bnrelu_product<T>({rows, in, out_channels, threads}, {x, x_stride}, {scale, shift}, weights, out, moments);        \
  }                                                                                                                    \
  extern "C" void product_backward_##NAME(const T* dz, int64_t dz_stride, const T* weights, const T* x,                \
                                          int64_t x_stride, const T* scale, const T* shift, const T* mean,             \
                                          const T* source, int64_t source_stride, T* out, int64_t out_stride,          \
                                          T* dweights, T* sums, int64_t rows, int64_t in, int64_t out_channels,        \
                                          int threads) {                                                               \
    product_backward<T>({rows, in, out_channels, threads}, {dz, dz_stride}, weights, {x, x_stride}, {scale, shift},    \
                        mean, {source, source_stride}, {out, out_stride}, dweights, sums);                             \
  }

DEFINE(double, float64)
DEFINE(float, float32)
