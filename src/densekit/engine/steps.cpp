// The memory-bound steps of the fused dense block on a CPU, over chunks of rows.

#include "exports.hpp"
#include "rows_avx512_bf16.hpp"

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

}  // namespace

template <class T>
void densekit::bnrelu(const RowsSize& size, Matrix<const T> x, Activation<T> activation, Matrix<T> out) {
  for_chunks(size, [=](int, int64_t first, int64_t rows) {
    activation.apply(from(x, first), from(out, first), rows, size.channels);
  });
}

template <class T>
void densekit::drelu_sums(const RowsSize& size, Matrix<const T> gradient, Matrix<const T> x, Activation<T> activation,
                          const Acc<T>* mean, Matrix<const T> source, Matrix<T> out, Acc<T>* sums) {
  const auto step = source.data ? drelu_rows<T, true, T> : drelu_rows<T, false, T>;
  Sums<Acc<T>> totals(size.channels, size.threads);
  for_chunks(size, [&](int thread, int64_t first, int64_t rows) {
    Acc<T>* plain = totals.chunk(thread);
    step(from(gradient, first), from(x, first), activation.scale, activation.shift, mean, from(source, first),
         from(out, first), plain, plain + size.channels, rows, size.channels);
    totals.add(thread);
  });
  totals.write(sums);
}

template <class T>
void densekit::tile_moments(const RowsSize& size, Matrix<const T> x, Matrix<T> out, double* moments) {
  std::vector<RowMoments<T>> threads(size.threads, RowMoments<T>(size.channels));
  for_chunks(size, [&](int thread, int64_t first, int64_t rows) {
    threads[thread].add(from(x, first), from(out, first), rows);
  });
  RowMoments<T>::write(threads, moments);
}

template <class T>
void densekit::bn_gradient(const RowsSize& size, Matrix<const T> gradient, Matrix<const T> x, const Acc<T>* mean,
                           const Acc<T>* scale, Matrix<const Acc<T>> terms, Matrix<T> out) {
  for_chunks(size, [=](int, int64_t first, int64_t rows) {
    bn_gradient_rows(from(gradient, first), from(x, first), mean, scale, terms, from(out, first), rows, size.channels);
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

EXPORT(bnrelu)
EXPORT(drelu_sums)
EXPORT(bn_gradient)
EXPORT(tile_moments)
