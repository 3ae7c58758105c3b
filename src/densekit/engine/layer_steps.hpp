// Declares the steps of a layer and their argument types. The files that define the steps include this too, so that the
// compiler checks that they agree.

#pragma once

#include "rows.hpp"

namespace densekit {

template <class A>
struct Norm {  // a batch norm as it is stored
  const A *weight, *bias, *mean, *var;
  double eps;
};

struct RowsSize {
  int64_t rows, channels;
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
struct Kernels {  // (out, in, 3, 3), in any memory layout
  T* data;
  std::array<int64_t, 4> strides;
  T& at(int64_t out, int64_t in, int tap) const {
    return data[out * strides[0] + in * strides[1] + tap / 3 * strides[2] + tap % 3 * strides[3]];
  }
  Kernels channels(int64_t first) const { return {data + first * strides[1], strides}; }
};

// steps.cpp. Without terms only the scale is applied; subtracting zero times infinity would give NaN.
template <class T>
void bn_gradient(const RowsSize& size, Matrix<const T> gradient, Matrix<const T> x, const Acc<T>* mean,
                 const Acc<T>* scale, const Acc<T>* c1, const Acc<T>* c2, Matrix<T> out);

// conv1x1.cpp
template <class T>
void bnrelu_conv1x1(const Conv1x1Size& size, Matrix<const T> x, Activation<T> activation, const T* weights, T* out,
                    double* moments);
// Without `dweights` their gradient is not computed.
template <class T>
void conv1x1_backward(const Conv1x1Size& size, Matrix<const T> dz, const T* weights, Matrix<const T> x,
                      Activation<T> activation, const Acc<T>* mean, Matrix<const T> source, Matrix<T> out,
                      Acc<T>* dweights, Acc<T>* sums);

// conv3x3.cpp. The size is that of the forward pass.
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

}  // namespace densekit
