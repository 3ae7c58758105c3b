// The steps that the library exports, and the structs they take; `step_structs.py` and `exported_steps.py` declare them to
// Python.

#pragma once

#include "rows.hpp"

namespace densekit {

struct RowsSize {
  int64_t rows, channels;
  int threads;
};

struct PoolSize {
  int64_t N, H, W, channels;
  int threads;
};

struct Conv1x1Size {
  int64_t rows, in, out;  // channels in and out
  int threads;
};

struct Conv3x3Size {
  int64_t N, H, W, in, out;  // channels in and out
  int threads;
};

template <class T>
struct Pixels : Matrix<T> {  // (N, H, W, channels), a row for each pixel
  Matrix<T> at(const Conv3x3Size& size, int64_t n, int64_t h, int64_t w) const {
    return {this->data ? this->row((n * size.H + h) * size.W + w) : nullptr, this->stride};
  }
  Pixels from(int64_t pixel) const { return {this->row(pixel), this->stride}; }
  Pixels channels(int64_t first) const { return {this->data + first, this->stride}; }
};

template <class T>
struct Lines {  // (N, H, W, channels) without gaps
  T* data;
  int64_t H, W, channels;
  Matrix<T> line(int64_t n, int64_t h) const { return {data + (n * H + h) * W * channels, channels}; }
};

template <class T>
struct Kernels {  // (out, in, 3, 3), in any memory layout
  T* data;
  std::array<int64_t, 4> strides;
  T& at(int64_t out, int64_t in, int tap) const {
    return data[out * strides[0] + in * strides[1] + tap / 3 * strides[2] + tap % 3 * strides[3]];
  }
  Kernels channels(int64_t first) const { return {data + first * strides[1], strides}; }
};

template <class A>
struct Norm {  // a batch norm as it is stored
  const A *weight, *bias, *mean, *var;
  double eps;
};

// A layer's parameters as stored, and the sizes of its steps.
template <class T>
struct Layer {
  using A = Acc<T>;
  int64_t N, H, W, in, middle, out;
  Norm<A> norm, norm2;
  const void *matrix, *kernels;
  std::array<int64_t, 4> strides;  // of the kernels
  bool wide;  // whether matrix and kernels are stored in the type of sums and not in T
  int threads;

  Conv1x1Size product() const { return {N * H * W, in, middle, threads}; }
  Conv3x3Size convolution() const { return {N, H, W, middle, out, threads}; }
};

// Where to store the gradients of the parameters; those of the matrix and of the kernels may be null.
template <class A>
struct Gradients {
  A *weight, *bias, *matrix, *weight2, *bias2;
  Kernels<A> kernels;
};

// steps.cpp: the memory-bound steps, each in one pass over the rows; `row_steps.py` defines them. Without `source`,
// `drelu_sums` adds to nothing. Without terms, `bn_gradient` applies the scale alone; subtracting zero times infinity would
// give NaN.
template <class T>
void bnrelu(const RowsSize& size, Matrix<const T> x, Activation<T> activation, Matrix<T> out);
template <class T>
void drelu_sums(const RowsSize& size, Matrix<const T> gradient, Matrix<const T> x, Activation<T> activation,
                const Acc<T>* mean, Matrix<const T> source, Matrix<T> out, Acc<T>* sums);
template <class T>
void bn_gradient(const RowsSize& size, Matrix<const T> gradient, Matrix<const T> x, const Acc<T>* mean,
                 const Acc<T>* scale, Matrix<const Acc<T>> terms, Matrix<T> out);
template <class T>
void tile_moments(const RowsSize& size, Matrix<const T> x, Matrix<T> out, double* moments);

// pool.cpp: batch norm, ReLU and pooling in one pass, and back; `pool_steps.py` defines them. Without `indices` the places
// of the maxima are not stored.
template <class T>
void bnrelu_avg_pool(const PoolSize& size, Lines<const T> x, Activation<T> activation, Lines<T> out);
template <class T>
void bnrelu_avg_pool_backward(const PoolSize& size, Lines<const T> dpooled, Lines<const T> x, Activation<T> activation,
                              const Acc<T>* mean, Lines<T> out, Acc<T>* sums);
template <class T>
void bnrelu_max_pool(const PoolSize& size, Lines<const T> x, Activation<T> activation, Lines<T> out, uint8_t* indices);
template <class T>
void bnrelu_max_pool_backward(const PoolSize& size, Lines<const T> dpooled, const uint8_t* indices, Lines<const T> x,
                              Activation<T> activation, const Acc<T>* mean, Lines<T> out, Acc<T>* sums);

// conv1x1.cpp: products of activated rows. Without `dweights` their gradient is not computed.
template <class T>
void bnrelu_conv1x1(const Conv1x1Size& size, Matrix<const T> x, Activation<T> activation, const T* weights, T* out,
                    double* moments);
template <class T>
void conv1x1_backward(const Conv1x1Size& size, Matrix<const T> dz, const T* weights, Matrix<const T> x,
                      Activation<T> activation, const Acc<T>* mean, Matrix<const T> source, Matrix<T> out,
                      Acc<T>* dweights, Acc<T>* sums);

// conv3x3.cpp: convolutions of activated pixels. The size is that of the forward pass.
template <class T>
void bnrelu_conv3x3(const Conv3x3Size& size, Pixels<const T> x, Activation<T> activation, Kernels<const T> weights,
                    Pixels<T> out, double* moments);
template <class T>
void bnrelu_conv3x3_gradient(const Conv3x3Size& size, Pixels<const T> dy, Pixels<const T> x,
                             Activation<T> activation, const Acc<T>* mean, Kernels<const T> weights,
                             Pixels<const T> source, Pixels<T> out, Acc<T>* sums);
template <class T>
void conv3x3_weight_gradient(const Conv3x3Size& size, Pixels<const T> dy, Pixels<const T> x, Activation<T> activation,
                             Kernels<Acc<T>> weights);

// layer.cpp: a whole layer. So many `pictures` are processed at a time. `z` is space for their product, or, with `keeps`,
// for that of all pictures. If `moments2` is given, the product's moments are stored there and used instead of the second
// norm's; `moments` receives those of the result. Both require all pictures to be processed at a time.
template <class T>
void layer(Layer<T> layer, int64_t pictures, bool keeps, Pixels<const T> x, Pixels<T> out, T* z, Acc<T>* moments2,
           Acc<T>* moments);
// `d` is space for the gradient of z. `out` receives `source` plus the gradient of x, and `terms` is increased by the terms of
// the moments; both may be null. `trains2` says whether the second norm's moments are the batch's.
template <class T>
void layer_backward(const Layer<T>& layer, bool trains2, Pixels<const T> dy, Pixels<const T> x, Pixels<const T> z,
                    Pixels<T> d, Matrix<const T> source, Matrix<T> out, const Gradients<Acc<T>>& gradients,
                    Matrix<Acc<T>> terms);

}  // namespace densekit
