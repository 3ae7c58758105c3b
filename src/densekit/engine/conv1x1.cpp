// The 1x1 convolution of the fused dense block on a CPU, a product of activated rows, and its gradients.
//
// A block of rows stays in the second-level cache from batch norm and ReLU over the products to the steps on the result.

#include "exports.hpp"
#include "gemm_amx.hpp"

using namespace densekit;

namespace {

// The number of rows in a block: about as many as wanted, so that every thread gets the same number of blocks.
int64_t block_rows(const Conv1x1Size& size, int64_t wanted) {
  const int64_t rounds = std::max<int64_t>(1, (size.rows + wanted * size.threads - 1) / (wanted * size.threads));
  return std::max<int64_t>(1, (size.rows + rounds * size.threads - 1) / (rounds * size.threads));
}

}  // namespace

template <class T>
void densekit::bnrelu_conv1x1(const Conv1x1Size& size, Matrix<const T> x, Activation<T> activation, const T* weights,
                              T* out, double* moments) {
  using A = Acc<T>;
  const int64_t in_width = padded_stride<T>(size.in), out_width = padded_stride<A>(size.out), depth = operands<T>(size.in);
  const int64_t length = block_rows(size, std::clamp<int64_t>((1 << 18) / (in_width * sizeof(T)), 24, 192));
  Packed<Operand<T>> packed(depth, size.out);
  std::vector<RowMoments<T>> threads(moments ? size.threads : 0, RowMoments<T>(size.out));
  const int64_t most = whole_tiles<T>(length);
  const auto make = [&] { return std::tuple(Scratch<Value<T>>(most * in_width), Scratch<A>(most * out_width)); };
  in_parallel(size.threads, make, [&](const Scratch<Value<T>>& activated, const Scratch<A>& result) {
#pragma omp for schedule(static)
    for (int64_t d = 0; d < depth; ++d)
      packed.pack(d, [=](int64_t out) { return operand(weights + out * size.in, 1, d, size.in); });
#pragma omp for schedule(static)
    for (int64_t first = 0; first < size.rows; first += length) {
      const int64_t rows = std::min(length, size.rows - first);
      const Matrix<Value<T>> into{activated.data(), in_width};
      activation.apply({x.row(first), x.stride}, into, rows, size.in);
      finish_operands<T>(into, rows, size.in);
      multiply<false>(along_rows<T>(activated, in_width), packed.panels(), Matrix<A>{result.data(), out_width},
                      rows, whole_vectors<A>(size.out), depth);
      const Matrix<T> to{out + first * size.out, size.out};
      copy_rows(Matrix<const A>{result.data(), out_width}, to, rows, size.out);
      if (moments) threads[omp_get_thread_num()].add({to.data, to.stride}, {}, rows);
    }
  });
  if (moments) RowMoments<T>::write(threads, moments);
}

namespace {

// Activated rows, as operands of a product that sums over the rows.
template <class T>
void activate_over_rows(Matrix<const T> x, Activation<T> activation, Matrix<Operand<T>> out, int64_t rows,
                        int64_t channels) {
  if constexpr (kPairs<T>) {
    pair_rows(x, activation.scale, activation.shift, out, rows, channels);
    for (int64_t row = (rows + 1) / 2; row < operands<T>(rows); ++row) std::fill_n(out.row(row), channels, Pair{});
  } else
    activation.apply(x, out, rows, channels);
}

constexpr int64_t kSlice = 128;  // columns: slices of x, of the weights and of both gradients fit into the cache together

}  // namespace

template <class T>
void densekit::conv1x1_backward(const Conv1x1Size& size, Matrix<const T> dz, const T* weights, Matrix<const T> x,
                                Activation<T> activation, const Acc<T>* mean, Matrix<const T> source, Matrix<T> out,
                                Acc<T>* dweights, Acc<T>* sums) {
  using A = Acc<T>;
  const int64_t length = block_rows(size, 192), dz_width = padded_stride<T>(size.out), width = padded_stride<A>(kSlice);
  const auto step = out.data ? drelu_rows<T, true, A> : drelu_rows<T, false, A>;
  Packed<Operand<T>> packed(operands<T>(size.out), size.in);
  const int64_t own_width = padded_stride<A>(size.in);
  const int64_t own_rows = whole_tiles<T>(size.out);
  const Scratch<A> products(dweights ? size.threads * own_rows * own_width : 0);  // a gradient of the weights for each thread
  Sums<A> totals(size.in, size.threads);
  const int64_t over_width = kTiles<T> ? padded_stride<Operand<T>>(operands<T>(length)) : dz_width;
  const int64_t over_rows = kTiles<T> ? own_rows : kPairs<T> ? operands<T>(length) : 0;
  const auto make = [&] {
    return std::tuple(Scratch<Value<T>>(whole_tiles<T>(length) * dz_width), Scratch<T>(out.data ? 0 : length * width),
                      Scratch<Operand<T>>(over_rows * over_width), Scratch<A>(whole_tiles<T>(length) * width));
  };
  // the buffer holds activated values first, then their gradient
  in_parallel(size.threads, make, [&](const Scratch<Value<T>>& dz_rows, const Scratch<T>& unwanted,
                                      const Scratch<Operand<T>>& dz_pairs, const Scratch<A>& buffer) {
    const int thread = omp_get_thread_num(), team = omp_get_num_threads();
    auto* const activated = reinterpret_cast<Operand<T>*>(buffer.data());
    const Strided<Operand<T>> dz_along_rows = along_rows<T>(dz_rows, dz_width);
    const Strided<Operand<T>> dz_over_rows =
        kTiles<T> ? Strided<Operand<T>>{dz_pairs.data(), over_width, 1}
                  : Strided<Operand<T>>{kPairs<T> ? dz_pairs.data() : dz_along_rows.data, 1, over_width};
    A* own = dweights ? &products[thread * own_rows * own_width] : nullptr;
    bool begun = false;
#pragma omp for schedule(static)
    for (int64_t d = 0; d < operands<T>(size.out); ++d)
      packed.pack(d, [=](int64_t in) { return operand(weights + in, size.in, d, size.out); });
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < size.rows; first += length) {
      const int64_t rows = std::min(length, size.rows - first);
      const Matrix<const T> incoming{dz.row(first), dz.stride};
      const Matrix<Value<T>> into{dz_rows.data(), dz_width};
      copy_rows(incoming, into, rows, size.out);
      finish_operands<T>(into, rows, size.out);
      if constexpr (kTiles<T>) {
        if (dweights)
          transpose_rows(incoming, Matrix<Pair>{dz_pairs.data(), over_width}, rows, operands<T>(rows), size.out);
      } else if (kPairs<T> && dweights)
        activate_over_rows<T>(incoming, {}, {dz_pairs.data(), over_width}, rows, size.out);
      A* plain = totals.chunk(thread);
      for (int64_t c = 0; c < size.in; c += kSlice) {
        const int64_t columns = std::min(kSlice, size.in - c), n = whole_vectors<A>(columns);
        const Matrix<const T> from{x.row(first) + c, x.stride};
        const Activation<T> here = activation.from(c);
        if (dweights) {
          activate_over_rows<T>(from, here, {activated, width}, rows, columns);
          const auto panels = Panels<Operand<T>>::of({activated, width});
          const Matrix<A> sum{own + c, own_width};
          if (begun)
            multiply<true>(dz_over_rows, panels, sum, size.out, n, operands<T>(rows));
          else
            multiply<false>(dz_over_rows, panels, sum, size.out, n, operands<T>(rows));
        }
        multiply<false>(dz_along_rows, packed.panels(c), Matrix<A>{buffer.data(), width}, rows, n,
                        operands<T>(size.out));
        const Matrix<const T> onto{out.data ? source.row(first) + c : nullptr, source.stride};
        const Matrix<T> to = out.data ? Matrix<T>{out.row(first) + c, out.stride} : Matrix<T>{unwanted.data(), width};
        step({buffer.data(), width}, from, here.scale, here.shift, mean + c, onto, to, plain + c, plain + size.in + c,
             rows, columns);
      }
      totals.add(thread);
      begun = true;
    }
    if (!begun && dweights) std::fill_n(own, size.out * own_width, A(0));
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t row = 0; row < (dweights ? size.out : 0); ++row) {
      A* to = dweights + row * size.in;
      std::copy_n(&products[row * own_width], size.in, to);
      for (int other = 1; other < team; ++other) {
        const A* from = &products[(other * own_rows + row) * own_width];
#pragma omp simd
        for (int64_t in = 0; in < size.in; ++in) to[in] += from[in];
      }
    }
  });
  totals.write(sums);
}

EXPORT(bnrelu_conv1x1)
EXPORT(conv1x1_backward)
