// The memory-bound steps of the fused dense block on a CPU, each in one pass over the rows; `row_steps.py` defines them.

#include "rows_avx512_bf16.hpp"
#include "layer_steps.hpp"
#include "scratch.hpp"

using namespace densekit;

namespace {

constexpr int64_t kChunk = 64;  // rows

// Call body(thread, first row, rows) for every chunk of rows.
template <class Body>
void for_chunks(const RowsSize& size, Body body) {
  const int64_t chunks = (size.rows + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(size.threads)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t first = chunk * kChunk;
    body(omp_get_thread_num(), first, std::min(kChunk, size.rows - first));
  }
}

template <class T>
Matrix<T> from(Matrix<T> matrix, int64_t row) {
  return {matrix.data ? matrix.row(row) : nullptr, matrix.stride};
}

template <class T>
void bnrelu(Matrix<const T> x, const Acc<T>* scale, const Acc<T>* shift, Matrix<T> out, const RowsSize& size) {
  for_chunks(size, [=](int, int64_t first, int64_t rows) {
    bnrelu_rows(from(x, first), scale, shift, from(out, first), rows, size.channels);
  });
}

template <class T>
void drelu_sums(Matrix<const T> gradient, Matrix<const T> x, const Acc<T>* scale, const Acc<T>* shift,
                const Acc<T>* mean, Matrix<const T> source, Matrix<T> out, Acc<T>* sums, const RowsSize& size) {
  const auto step = source.data ? drelu_rows<T, true, T> : drelu_rows<T, false, T>;
  Sums<Acc<T>> totals(size.channels, size.threads);
  for_chunks(size, [&](int thread, int64_t first, int64_t rows) {
    Acc<T>* plain = totals.chunk(thread);
    step(from(gradient, first), from(x, first), scale, shift, mean, from(source, first), from(out, first), plain,
         plain + size.channels, rows, size.channels);
    totals.add(thread);
  });
  totals.write(sums);
}

template <class T>
void tile_moments(Matrix<const T> x, Matrix<T> out, double* moments, const RowsSize& size) {
  std::vector<RowMoments<T>> threads(size.threads, RowMoments<T>(size.channels));
  for_chunks(size, [&](int thread, int64_t first, int64_t rows) {
    threads[thread].add(from(x, first), from(out, first), rows);
  });
  RowMoments<T>::write(threads, moments);
}

}  // namespace

template <class T>
void densekit::bn_gradient(const RowsSize& size, Matrix<const T> gradient, Matrix<const T> x, const Acc<T>* mean,
                           const Acc<T>* scale, const Acc<T>* c1, const Acc<T>* c2, Matrix<T> out) {
  for_chunks(size, [=](int, int64_t first, int64_t rows) {
    bn_gradient_rows(from(gradient, first), from(x, first), mean, scale, c1, c2, from(out, first), rows,
                     size.channels);
  });
}

// Whether several threads share the work: not every compiler supports OpenMP.
extern "C" int shares_work() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

#define DEFINE(T, NAME)                                                                                                \
  extern "C" int bnrelu_##NAME(const T* x, int64_t x_stride, const Acc<T>* scale, const Acc<T>* shift, T* out,         \
                               int64_t out_stride, int64_t rows, int64_t channels, int threads) {                      \
    return status([=] {                                                                                                \
      bnrelu<T>({x, x_stride}, scale, shift, {out, out_stride}, {rows, channels, threads});                            \
    });                                                                                                                \
  }                                                                                                                    \
  extern "C" int drelu_sums_##NAME(const T* gradient, int64_t gradient_stride, const T* x, int64_t x_stride,           \
                                   const Acc<T>* scale, const Acc<T>* shift, const Acc<T>* mean, const T* source,      \
                                   int64_t source_stride, T* out, int64_t out_stride, Acc<T>* sums, int64_t rows,      \
                                   int64_t channels, int threads) {                                                    \
    return status([=] {                                                                                                \
      drelu_sums<T>({gradient, gradient_stride}, {x, x_stride}, scale, shift, mean, {source, source_stride},           \
                    {out, out_stride}, sums, {rows, channels, threads});                                               \
    });                                                                                                                \
  }                                                                                                                    \
  extern "C" int bn_gradient_##NAME(const T* gradient, int64_t gradient_stride, const T* x, int64_t x_stride,          \
                                    const Acc<T>* mean, const Acc<T>* scale, const Acc<T>* c1, const Acc<T>* c2,       \
                                    T* out, int64_t out_stride, int64_t rows, int64_t channels, int threads) {         \
    return status([=] {                                                                                                \
      bn_gradient<T>({rows, channels, threads}, {gradient, gradient_stride}, {x, x_stride}, mean, scale, c1, c2,       \
                     {out, out_stride});                                                                               \
    });                                                                                                                \
  }                                                                                                                    \
  extern "C" int tile_moments_##NAME(const T* x, int64_t x_stride, T* out, int64_t out_stride, double* moments,        \
                                     int64_t rows, int64_t channels, int threads) {                                    \
    return status([=] {                                                                                                \
      tile_moments<T>({x, x_stride}, {out, out_stride}, moments, {rows, channels, threads});                           \
    });                                                                                                                \
  }                                                                                                                    \
  template decltype(bn_gradient<T>) densekit::bn_gradient<T>;

DEFINE(double, float64)
DEFINE(float, float32)
DEFINE(bfloat16, bfloat16)
