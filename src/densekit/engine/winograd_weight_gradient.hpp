// The gradient of the weights of Winograd's convolution.

#pragma once

#include "winograd.hpp"

namespace densekit::winograd {

// A tile of dy, from pixel (h, w) on, as frequencies, by the transpose of the transform from frequencies to pixels.
template <class T, int side>
void transform_gradient(const Conv3x3Size& size, Pixels<const T> dy, int64_t n, int64_t h, int64_t w,
                        const T* zeros, Acc<T>* to, int64_t plane) {
  using A = Acc<T>;
  constexpr int patch = kPatch<side>;
  const T* pixels[side][side];
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j)
      pixels[i][j] = h + i < size.H && w + j < size.W ? dy.at(size, n, h + i, w + j).data : zeros;
#pragma omp simd
  for (int64_t c = 0; c < size.out; ++c) {
    A columns[side][patch], line[patch], values[patch];
    for (int j = 0; j < side; ++j) {
      for (int i = 0; i < side; ++i) line[i] = load(pixels[i][j][c]);
      Winograd<side>::result_back(line, columns[j]);
    }
    for (int i = 0; i < patch; ++i) {
      for (int j = 0; j < side; ++j) line[j] = columns[j][i];
      Winograd<side>::result_back(line, values);
      for (int j = 0; j < patch; ++j) to[(patch * i + j) * plane + c] = values[j];
    }
  }
}

// Turn sums of products of frequencies (.., out, in) into weights, for one channel out; false if one is not finite.
template <class T, int side>
bool write_weights(const Conv3x3Size& size, const Acc<T>* sums, int64_t plane, int64_t width, int64_t out,
                   Kernels<Acc<T>> weights) {
  using A = Acc<T>;
  constexpr int patch = kPatch<side>;
  A check = 0;
  for (int64_t first = 0; first < size.in; first += kLanes<A>) {
    Vector<A> columns[patch][3], line[patch], taps[9];
    for (int j = 0; j < patch; ++j) {
      for (int i = 0; i < patch; ++i) line[i] = get(sums + (patch * i + j) * plane + out * width + first);
      Winograd<side>::weight_back(line, columns[j]);
    }
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < patch; ++j) line[j] = columns[j][i];
      Winograd<side>::weight_back(line, taps + 3 * i);
    }
    for (int64_t lane = 0; lane < std::min(kLanes<A>, size.in - first); ++lane) {
      for (int tap = 0; tap < 9; ++tap) {
        weights.at(out, first + lane, tap) = taps[tap][lane];
        check += taps[tap][lane] * A(0);
      }
    }
  }
  return check == 0;
}

// The number of channels in each of equal slices, few enough that their sums of products stay in the cache.
template <class T>
int64_t slice(int64_t channels) {
  constexpr int64_t most = 192;
  const int64_t slices = (channels + most - 1) / most;
  return whole_vectors<Acc<T>>((channels + slices - 1) / slices);
}

// Returns false if a result is not finite, because a value was not or sums overflowed: then the definition has to be used.
template <class T, int side>
bool weight_gradient(const Conv3x3Size& size, Pixels<const T> dy, Pixels<const T> x, Activation<T> activation,
                     Kernels<Acc<T>> weights) {
  using A = Acc<T>;
  const Grid<T, side> grid(size);
  const int64_t width = padded_stride<A>(size.in), dy_width = padded_stride<A>(size.out);
  const int64_t sums_plane = padded_stride<A>(size.out * width), length = kFrequencies<side> * sums_plane;
  const Scratch<A> sums(size.threads * length);
  const std::vector<T> zeros(size.out);
  std::atomic<bool> finite = true;
  const int64_t most = kFrequencies<side> * padded_stride<A>(grid.lines * grid.width * dy_width);
  const auto make = [&] { return std::tuple(Patches<T, side>(size, grid), Scratch<A>(most)); };
  in_parallel(size.threads, make, [&](Patches<T, side>& patches, const Scratch<A>& gradients) {
    A* own = &sums[omp_get_thread_num() * length];
    bool begun = false;
#pragma omp for schedule(static) nowait
    for (int64_t number = 0; number < grid.count; ++number) {
      const Block block = grid.block(number);
      const int64_t plane = padded_stride<A>(block.tiles() * dy_width);
      patches.read(x, activation, block);
      for (int64_t tile = 0; tile < block.tiles(); ++tile) {
        const int64_t line = block.first + tile / block.width, column = block.left + tile % block.width;
        transform_gradient<T, side>(size, dy, line / grid.H, side * (line % grid.H), side * column, zeros.data(),
                           &gradients[tile * dy_width], plane);
      }
      const auto into = begun ? multiply<true, A, A> : multiply<false, A, A>;
      for (int f = 0; f < kFrequencies<side>; ++f)
        into({&gradients[f * plane], 1, dy_width}, Panels<A>::of(patches.frequency(f)), {own + f * sums_plane, width},
             size.out, whole_vectors<A>(size.in), block.tiles());
      begun = true;
    }
    if (!begun) std::fill_n(own, length, A(0));
#pragma omp barrier
    add_threads(sums.data(), length);
#pragma omp for schedule(static)
    for (int64_t out = 0; out < size.out; ++out)
      if (!write_weights<T, side>(size, sums.data(), sums_plane, width, out, weights)) finite = false;
  });
  return finite;
}

}  // namespace densekit::winograd
