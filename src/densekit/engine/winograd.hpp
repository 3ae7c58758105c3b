// Winograd's F(2x2, 3x3) for a block of tiles: what goes in, the weights, and what comes out, each as 16 frequencies.

#pragma once

#include "multiply.hpp"

namespace densekit {

struct Size {
  int64_t N, H, W, in, out;  // channels in and out
  int threads;
};

template <class T>
struct Pixels {  // (N, H, W, channels), pixels `stride` values apart
  T* data;
  int64_t stride;
  Matrix<T> at(const Size& size, int64_t n, int64_t h, int64_t w) const {
    return {data ? data + ((n * size.H + h) * size.W + w) * stride : nullptr, stride};
  }
};

struct Block {  // a rectangle of tiles of one picture; all numbers but the first in tiles
  int64_t picture, top, left, height, width;
  int64_t tiles() const { return height * width; }
};

// How pictures are divided into blocks.
struct Grid {
  int64_t H, W, height, width, down, across, count;  // tiles of a picture and of a block; blocks of a picture and in all

  // As many tiles as have patches and results of 256 KiB, but something to do for every thread.
  template <class T>
  static Grid of(const Size& size, T) {
    const int64_t tiles = std::max<int64_t>(1, (1 << 18) / (16 * sizeof(T) * spread<T>(std::max(size.in, size.out))));
    Grid grid;
    grid.H = (size.H + 1) / 2;
    grid.W = (size.W + 1) / 2;
    grid.across = (grid.W + tiles - 1) / tiles;
    grid.width = (grid.W + grid.across - 1) / grid.across;
    const int64_t share = (size.N * grid.H + size.threads - 1) / size.threads;
    grid.height = std::max<int64_t>(1, std::min({grid.H, tiles / grid.width, share}));
    grid.down = (grid.H + grid.height - 1) / grid.height;
    grid.count = size.N * grid.down * grid.across;
    return grid;
  }

  Block block(int64_t number) const {
    const int64_t top = number / across % down * height, left = number % across * width;
    return {number / (down * across), top, left, std::min(height, H - top), std::min(width, W - left)};
  }
};

template <class T>
void transform_patch(Vector<T> a, Vector<T> b, Vector<T> c, Vector<T> d, Vector<T>* to) {
  to[0] = a - c, to[1] = b + c, to[2] = c - b, to[3] = b - d;
}

template <class T>
void transform_weight(Vector<T> a, Vector<T> b, Vector<T> c, Vector<T>* to) {
  to[0] = a, to[1] = (a + c + b) / 2, to[2] = (a + c - b) / 2, to[3] = c;
}

// The input of one block: its pixels and a border of one, activated, with zeros outside of the picture; and its patches.
template <class T>
class Patches {
 public:
  Patches(const Size& size, const Grid& grid)
      : size_(size), width_(spread<T>(size.in)), pixels_((2 * grid.height + 2) * (2 * grid.width + 2) * width_),
        patches_(16 * spread<T>(grid.height * grid.width * width_)) {}

  void read(Pixels<const T> x, Activation<T> activation, Block block) {
    columns_ = 2 * block.width + 2;
    plane_ = spread<T>(block.tiles() * width_);
    const int64_t left = 2 * block.left - 1, first = std::max<int64_t>(0, -left);
    const int64_t last = std::min(columns_, size_.W - left);
    for (int64_t i = 0; i < 2 * block.height + 2; ++i) {
      const int64_t h = 2 * block.top - 1 + i;
      const bool inside = h >= 0 && h < size_.H;
      T* line = &pixels_[i * columns_ * width_];
      std::fill(line, line + (inside ? first : columns_) * width_, T(0));
      if (!inside) continue;
      activation.apply(x.at(size_, block.picture, h, left + first), {line + first * width_, width_}, last - first,
                       size_.in);
      std::fill(line + last * width_, line + columns_ * width_, T(0));
    }
    for (int64_t tile = 0; tile < block.tiles(); ++tile)
      transform(&pixels_[(tile / block.width * columns_ + tile % block.width) * 2 * width_], &patches_[tile * width_]);
  }

  Matrix<const T> frequency(int number) const { return {&patches_[number * plane_], width_}; }

  // Pixel (i, j) of the block and its border.
  const T* pixel(int64_t i, int64_t j) const { return &pixels_[(i * columns_ + j) * width_]; }

 private:
  void transform(const T* patch, T* to) const {
    const int64_t below = columns_ * width_;
    for (int64_t c = 0; c < size_.in; c += kLanes<T>) {
      Vector<T> rows[4][4], values[4];
      for (int j = 0; j < 4; ++j) {
        const T* top = patch + j * width_ + c;
        transform_patch<T>(get(top), get(top + below), get(top + 2 * below), get(top + 3 * below), rows[j]);
      }
      for (int i = 0; i < 4; ++i) {
        transform_patch<T>(rows[0][i], rows[1][i], rows[2][i], rows[3][i], values);
        for (int j = 0; j < 4; ++j) put(to + (4 * i + j) * plane_ + c, values[j]);
      }
    }
  }

  Size size_;
  int64_t width_, columns_ = 0, plane_ = 0;
  std::vector<T> pixels_, patches_;
};

template <class T>
struct Kernels {  // (out, in, 3, 3), in any memory layout
  const T* data;
  int64_t strides[4];
};

// The weights of a convolution; or `mirrored`, of the one that takes the gradient of its result back to its input.
template <class T>
class Weights {
 public:
  Weights(const Size& size, Kernels<T> kernels, bool mirrored)
      : size_(size), kernels_(kernels), mirrored_(mirrored), width_(whole_vectors<T>(size.out)),
        frequencies_(16 * size.in * width_) {
    if (mirrored) std::swap(kernels_.strides[0], kernels_.strides[1]);
  }

  T at(int64_t out, int64_t in, int tap) const {
    const int64_t* strides = kernels_.strides;
    const int from = mirrored_ ? 8 - tap : tap;
    return kernels_.data[out * strides[0] + in * strides[1] + from / 3 * strides[2] + from % 3 * strides[3]];
  }

  void transform(int64_t in) {
    const int64_t step = size_.in * width_;
    for (int64_t first = 0; first < size_.out; first += kLanes<T>) {
      const int64_t number = std::min(kLanes<T>, size_.out - first);
      T* to = &frequencies_[in * width_ + first];
      Vector<T> taps[9] = {}, rows[3][4], values[4];
      for (int tap = 0; tap < 9; ++tap)
        for (int64_t i = 0; i < number; ++i) taps[tap][i] = at(first + i, in, tap);
      for (int j = 0; j < 3; ++j) transform_weight<T>(taps[j], taps[3 + j], taps[6 + j], rows[j]);
      for (int i = 0; i < 4; ++i) {
        transform_weight<T>(rows[0][i], rows[1][i], rows[2][i], values);
        for (int j = 0; j < 4; ++j) put(to + (4 * i + j) * step, values[j]);
      }
    }
  }

  Panels<T> frequency(int number) const {
    return Panels<T>::of({&frequencies_[number * size_.in * width_], width_});
  }
  int64_t width() const { return width_; }

 private:
  Size size_;
  Kernels<T> kernels_;
  bool mirrored_;
  int64_t width_;
  std::vector<T> frequencies_;
};

// The convolution of one block: frequencies, and pixels in lines of 2 * block.width.
template <class T>
class Result {
 public:
  Result(const Size& size, const Grid& grid)
      : size_(size), width_(spread<T>(size.out)), frequencies_(16 * spread<T>(grid.height * grid.width * width_)),
        pixels_(4 * grid.height * grid.width * width_) {}

  void compute(const Patches<T>& patches, const Weights<T>& weights, Block block) {
    const int64_t plane = spread<T>(block.tiles() * width_);
    for (int f = 0; f < 16; ++f) {
      const Matrix<const T> patch = patches.frequency(f);
      multiply<false, T>({patch.data, patch.stride, 1}, weights.frequency(f), {&frequencies_[f * plane], width_},
                         block.tiles(), weights.width(), size_.in);
    }
    Vector<T> check{};
    for (int64_t tile = 0; tile < block.tiles(); ++tile) {
      T* to = &pixels_[(tile / block.width * 2 * block.width + tile % block.width) * 2 * width_];
      transform(&frequencies_[tile * width_], plane, to, 2 * block.width * width_, check);
    }
    bool finite = true;
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) finite &= check[lane] == 0;
    if (!finite) compute_by_definition(patches, weights, block);
  }

  Matrix<const T> line(Block block, int64_t number) const {
    return {&pixels_[number * 2 * block.width * width_], width_};
  }

 private:
  void transform(const T* from, int64_t plane, T* to, int64_t below, Vector<T>& check) const {
    for (int64_t c = 0; c < size_.out; c += kLanes<T>) {
      Vector<T> rows[2][4];
      for (int j = 0; j < 4; ++j) {
        const T* column = from + j * plane + c;
        const Vector<T> plus = get(column + 4 * plane), minus = get(column + 8 * plane);
        rows[0][j] = get(column) + (plus + minus);
        rows[1][j] = (plus - minus) - get(column + 12 * plane);
      }
      for (int i = 0; i < 2; ++i) {
        const Vector<T> left = rows[i][0] + (rows[i][1] + rows[i][2]), right = (rows[i][1] - rows[i][2]) - rows[i][3];
        put(to + i * below + c, left);
        put(to + i * below + width_ + c, right);
        check += (left + right) * T(0);  // NaN after what is not finite
      }
    }
  }

  // What is not finite, or too large for sums of it, stays in its own places only so.
  void compute_by_definition(const Patches<T>& patches, const Weights<T>& weights, Block block) {
    for (int64_t i = 0; i < 2 * block.height; ++i) {
      for (int64_t j = 0; j < 2 * block.width; ++j) {
        T* to = &pixels_[(i * 2 * block.width + j) * width_];
        for (int64_t out = 0; out < size_.out; ++out) {
          T sum = 0;
          for (int tap = 0; tap < 9; ++tap) {
            const T* pixel = patches.pixel(i + tap / 3, j + tap % 3);
            for (int64_t in = 0; in < size_.in; ++in) sum += pixel[in] * weights.at(out, in, tap);
          }
          to[out] = sum;
        }
      }
    }
  }

  Size size_;
  int64_t width_;
  std::vector<T> frequencies_, pixels_;
};

}  // namespace densekit
