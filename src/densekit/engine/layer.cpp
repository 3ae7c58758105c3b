// A whole layer of the fused dense block on a CPU, forward and backward: batch norm, ReLU, 1x1 convolution, batch norm,
// ReLU, 3x3 convolution. The arguments of its steps are computed from the layer's parameters here: for a few small pictures
// that takes longer than the steps themselves in Python.

#include <cmath>

#include "layer_steps.hpp"
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

// A layer's parameters as stored, and the sizes of its steps.
template <class T>
struct Layer {
  using A = Acc<T>;
  int64_t N, H, W, in, middle, out;
  bool wide;  // whether the weights are stored in the type of sums and not in T
  int threads;
  Norm<A> norm, norm2;
  const void *matrix, *kernels;
  std::array<int64_t, 4> strides;  // of the kernels

  Conv1x1Size product() const { return {N * H * W, in, middle, threads}; }
  Conv3x3Size convolution() const { return {N, H, W, middle, out, threads}; }
};

// So many `pictures` are processed at a time. `z` is space for their product, or, with `keeps`, for that of all pictures. If
// `moments2` is given, the product's moments are stored there and used instead of the second norm's; `moments` receives those
// of the result. Both require all pictures to be processed at a time.
template <class T>
void layer(Layer<T> layer, int64_t pictures, bool keeps, Pixels<const T> x, Pixels<T> out, T* z, Acc<T>* moments2,
           Acc<T>* moments) {
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

// Where to store the gradients of the parameters; those of the matrix and of the kernels may be null.
template <class A>
struct Gradients {
  A *weight, *bias, *matrix, *weight2, *bias2;
  Kernels<A> kernels;
};

// `d` is space for the gradient of z. `out` receives `source` plus the gradient of x, and `terms` is increased by the terms of
// the moments; both may be null. `trains2` says whether the second norm's moments are the batch's.
template <class T>
void layer_backward(const Layer<T>& layer, bool trains2, Pixels<const T> dy, Pixels<const T> x, Pixels<const T> z,
                    Pixels<T> d, Matrix<const T> source, Matrix<T> out, Gradients<Acc<T>> gradients,
                    Matrix<Acc<T>> terms) {
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
  std::vector<A> terms2(2 * layer.middle);
  if (trains2) norm2.add_terms(sums.data(), size.rows, {terms2.data(), layer.middle});
  bn_gradient<T>({size.rows, layer.middle, layer.threads}, {d.data, d.stride}, z, layer.norm2.mean, norm2.scale(),
                 trains2 ? terms2.data() : nullptr, terms2.data() + layer.middle, d);

  conv1x1_backward<T>(size, {d.data, d.stride}, matrix.data(), x, norm.template activation<T>(), layer.norm.mean, source, out,
                      gradients.matrix, sums.data());
  norm.gradients(sums.data(), gradients.weight, gradients.bias);
  if (terms.data) norm.add_terms(sums.data(), size.rows, terms);
}

}  // namespace

#define LAYER(A)                                                                                                       \
  const A *weight, const A *bias, const A *mean, const A *var, double eps, const void *matrix, const A *weight2,       \
      const A *bias2, const A *mean2, const A *var2, double eps2, const void *kernels, int64_t s0, int64_t s1,         \
      int64_t s2, int64_t s3
#define SIZE int64_t wide, int64_t N, int64_t H, int64_t W, int64_t in, int64_t middle, int64_t out_channels, int threads
#define GIVEN                                                                                                          \
  {N, H, W, in, middle, out_channels, wide != 0, threads, {weight, bias, mean, var, eps},                              \
   {weight2, bias2, mean2, var2, eps2}, matrix, kernels, {s0, s1, s2, s3}}

#define DEFINE(T, NAME)                                                                                                \
  extern "C" int layer_##NAME(const T* x, int64_t x_stride, LAYER(Acc<T>), T* out, int64_t out_stride, T* z,           \
                              Acc<T>* moments2, Acc<T>* moments, int64_t pictures, int64_t keeps, SIZE) {              \
    return status([=] {                                                                                                \
      layer<T>(GIVEN, pictures, keeps != 0, {x, x_stride}, {out, out_stride}, z, moments2, moments);                   \
    });                                                                                                                \
  }                                                                                                                    \
  extern "C" int layer_backward_##NAME(                                                                                \
      const T* dy, int64_t dy_stride, const T* x, int64_t x_stride, LAYER(Acc<T>), const T* z, T* d, const T* source,  \
      int64_t source_stride, T* out, int64_t out_stride, Acc<T>* dweight, Acc<T>* dbias, Acc<T>* dmatrix,              \
      Acc<T>* dweight2, Acc<T>* dbias2, Acc<T>* dkernels, int64_t d0, int64_t d1, int64_t d2, int64_t d3,              \
      Acc<T>* terms, int64_t terms_stride, int64_t trains2, SIZE) {                                                    \
    return status([=] {                                                                                                \
      layer_backward<T>(GIVEN, trains2 != 0, {dy, dy_stride}, {x, x_stride}, {z, middle}, {d, middle},                 \
                        {source, source_stride}, {out, out_stride},                                                    \
                        {dweight, dbias, dmatrix, dweight2, dbias2, {dkernels, {d0, d1, d2, d3}}},                     \
                        {terms, terms_stride});                                                                        \
    });                                                                                                                \
  }

DEFINE(double, float64)
DEFINE(float, float32)
DEFINE(bfloat16, bfloat16)
