// A whole layer of the fused dense block on a CPU, forward and backward: batch norm, ReLU, 1x1 convolution, batch norm,
// ReLU, 3x3 convolution. The arguments of its steps are computed from the layer's parameters here: for a few small pictures
// that takes longer than the steps themselves in Python.

#include <cmath>

#include "exports.hpp"
#include "scratch.hpp"

using namespace densekit;

namespace {

// A batch norm as a scale and a shift.
template <class A>
class FoldedNorm {
 public:
  FoldedNorm(Norm<A> norm, int64_t channels) : values_(3 * channels), channels_(channels) {
    for (int64_t c = 0; c < channels; ++c) {
      const A std = std::sqrt(norm.var[c] + A(norm.eps)), scale = norm.weight[c] / std;
      values_[c] = std;
      values_[channels + c] = scale;
      values_[2 * channels + c] = norm.bias[c] - norm.mean[c] * scale;
    }
  }

  const A* scale() const { return values_.data() + channels_; }
  template <class T>
  Activation<T> activation() const {
    return {scale(), scale() + channels_};
  }

  // The gradients of the norm's weight and bias, from the sums of `drelu_rows`.
  void gradients(const A* sums, A* weight, A* bias) const {
    std::copy_n(sums, channels_, bias);
    for (int64_t c = 0; c < channels_; ++c) weight[c] = sums[channels_ + c] / values_[c];
  }

  // Add the two terms of `bn_gradient` that stem from the moments of so many values.
  void add_terms(const A* sums, int64_t count, Matrix<A> terms) const {
    for (int64_t c = 0; c < channels_; ++c) {
      terms.row(0)[c] += scale()[c] * sums[c] / A(count);
      terms.row(1)[c] += scale()[c] * sums[channels_ + c] / (values_[c] * values_[c] * A(count));
    }
  }

 private:
  Scratch<A> values_;
  int64_t channels_;
};

// Weights in the type T of the products.
template <class T>
class Cast {
 public:
  Cast(const void* weights, bool wide, int64_t number, int threads)
      : values_(wide ? number : 0), data_(wide ? values_.data() : static_cast<const T*>(weights)) {
    if (!wide) return;
    const auto* from = static_cast<const Acc<T>*>(weights);
#pragma omp parallel for simd schedule(static) num_threads(threads)
    for (int64_t i = 0; i < number; ++i) values_[i] = store<T>(from[i]);
  }
  const T* data() const { return data_; }

 private:
  Scratch<T> values_;
  const T* data_;
};

}  // namespace

template <class T>
void densekit::layer(Layer<T> layer, int64_t pictures, bool keeps, Pixels<const T> x, Pixels<T> out, T* z,
                     Acc<T>* moments2, Acc<T>* moments) {
  using A = Acc<T>;
  const int64_t area = layer.H * layer.W;
  const FoldedNorm<A> norm(layer.norm, layer.in);
  const Cast<T> matrix(layer.matrix, layer.wide, layer.middle * layer.in, layer.threads);
  const Cast<T> kernels(layer.kernels, layer.wide, layer.out * layer.middle * 9, layer.threads);
  std::vector<double> seen2(moments2 ? 2 * layer.middle : 0), seen(moments ? 2 * layer.out : 0);
  const int64_t all = layer.N;
  for (int64_t n = 0; n < all; n += pictures) {
    layer.N = std::min(pictures, all - n);
    T* const here = keeps ? z + n * area * layer.middle : z;
    bnrelu_conv1x1<T>(layer.product(), x.from(n * area), norm.template activation<T>(), matrix.data(), here,
                      moments2 ? seen2.data() : nullptr);
    if (moments2) {
      std::copy(seen2.begin(), seen2.end(), moments2);
      layer.norm2.mean = moments2;
      layer.norm2.var = moments2 + layer.middle;
    }
    const FoldedNorm<A> norm2(layer.norm2, layer.middle);
    bnrelu_conv3x3<T>(layer.convolution(), {here, layer.middle}, norm2.template activation<T>(),
                      {kernels.data(), layer.strides}, out.from(n * area), moments ? seen.data() : nullptr);
  }
  if (moments) std::copy(seen.begin(), seen.end(), moments);
}

template <class T>
void densekit::layer_backward(const Layer<T>& layer, bool trains2, Pixels<const T> dy, Pixels<const T> x,
                              Pixels<const T> z, Pixels<T> d, Matrix<const T> source, Matrix<T> out,
                              const Gradients<Acc<T>>& gradients, Matrix<Acc<T>> terms) {
  using A = Acc<T>;
  const Conv1x1Size size = layer.product();
  const FoldedNorm<A> norm(layer.norm, layer.in), norm2(layer.norm2, layer.middle);
  const Cast<T> matrix(layer.matrix, layer.wide, layer.middle * layer.in, layer.threads);
  const Cast<T> kernels(layer.kernels, layer.wide, layer.out * layer.middle * 9, layer.threads);
  if (gradients.kernels.data)
    conv3x3_weight_gradient<T>(layer.convolution(), dy, z, norm2.template activation<T>(), gradients.kernels);

  const Scratch<A> sums(2 * std::max(layer.in, layer.middle));
  bnrelu_conv3x3_gradient<T>(layer.convolution(), dy, z, norm2.template activation<T>(), layer.norm2.mean,
                             {kernels.data(), layer.strides}, {}, d, sums.data());
  norm2.gradients(sums.data(), gradients.weight2, gradients.bias2);
  std::vector<A> values(2 * layer.middle);
  const Matrix<A> terms2{values.data(), layer.middle};
  if (trains2) norm2.add_terms(sums.data(), size.rows, terms2);
  bn_gradient<T>({size.rows, layer.middle, layer.threads}, {d.data, d.stride}, z, layer.norm2.mean, norm2.scale(),
                 {trains2 ? terms2.data : nullptr, terms2.stride}, d);

  conv1x1_backward<T>(size, {d.data, d.stride}, matrix.data(), x, norm.template activation<T>(), layer.norm.mean, source, out,
                      gradients.matrix, sums.data());
  norm.gradients(sums.data(), gradients.weight, gradients.bias);
  if (terms.data) norm.add_terms(sums.data(), size.rows, terms);
}

EXPORT(layer)
EXPORT(layer_backward)
