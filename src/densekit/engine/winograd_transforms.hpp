// The one-dimensional transforms of Winograd's F(2, 3) and F(4, 3), each a small constant matrix: patches and weights to
// frequencies, frequencies to results, and the transposes. V is a value or a vector of values. Lavin and Gray, Fast
// Algorithms for Convolutional Neural Networks, 2016, section 4.

#pragma once

namespace densekit {

template <int side>
struct Winograd;

template <>
struct Winograd<2> {
  template <class V>
  static void patch(const V* d, V* to) {
    to[0] = d[0] - d[2], to[1] = d[1] + d[2], to[2] = d[2] - d[1], to[3] = d[1] - d[3];
  }
  template <class V>
  static void weight(const V* g, V* to) {
    to[0] = g[0], to[1] = (g[0] + g[2] + g[1]) / 2, to[2] = (g[0] + g[2] - g[1]) / 2, to[3] = g[2];
  }
  template <class V>
  static void result(const V* f, V* to) {
    to[0] = f[0] + (f[1] + f[2]), to[1] = (f[1] - f[2]) - f[3];
  }
  template <class V>
  static void result_back(const V* y, V* to) {  // its transpose
    to[0] = y[0], to[1] = y[0] + y[1], to[2] = y[0] - y[1], to[3] = -y[1];
  }
  template <class V>
  static void weight_back(const V* f, V* to) {  // its transpose
    to[0] = f[0] + (f[1] + f[2]) / 2, to[1] = (f[1] - f[2]) / 2, to[2] = (f[1] + f[2]) / 2 + f[3];
  }
};

template <>
struct Winograd<4> {
  template <class V>
  static void patch(const V* d, V* to) {
    const V even = d[4] - d[2], odd = 2 * (d[3] - d[1]);
    const V even4 = d[4] - 4 * d[2], odd4 = d[3] - 4 * d[1];
    to[0] = 4 * (d[0] - d[2]) + even, to[1] = even4 + odd4, to[2] = even4 - odd4;
    to[3] = even + odd, to[4] = even - odd, to[5] = 4 * (d[1] - d[3]) + (d[5] - d[3]);
  }
  template <class V>
  static void weight(const V* g, V* to) {
    const V even = (g[0] + g[2]) / -6, odd = g[1] / -6, even2 = g[0] / 24 + g[2] / 6, odd2 = g[1] / 12;
    to[0] = g[0] / 4, to[1] = even + odd, to[2] = even - odd, to[3] = even2 + odd2, to[4] = even2 - odd2, to[5] = g[2];
  }
  template <class V>
  static void result(const V* f, V* to) {
    const V even = f[1] + f[2], odd = f[1] - f[2], even2 = f[3] + f[4], odd2 = 2 * (f[3] - f[4]);
    to[0] = f[0] + (even + even2), to[1] = odd + odd2, to[2] = even + 4 * even2, to[3] = (odd + 4 * odd2) + f[5];
  }
  template <class V>
  static void result_back(const V* y, V* to) {
    const V even = y[0] + y[2], odd = y[1] + y[3], even2 = y[0] + 4 * y[2], odd2 = 2 * (y[1] + 4 * y[3]);
    to[0] = y[0], to[1] = even + odd, to[2] = even - odd, to[3] = even2 + odd2, to[4] = even2 - odd2, to[5] = y[3];
  }
  template <class V>
  static void weight_back(const V* f, V* to) {
    const V even = (f[1] + f[2]) / -6, odd2 = (f[3] - f[4]) / 12, even2 = f[3] + f[4];
    to[0] = f[0] / 4 + even + even2 / 24, to[1] = (f[1] - f[2]) / -6 + odd2, to[2] = even + even2 / 6 + f[5];
  }
};

}  // namespace densekit
