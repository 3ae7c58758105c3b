// The 3x3 convolution of the fused dense block on a CPU, and its gradients, by Winograd's F(2x2, 3x3), with 16
// multiplications where the definition has 36, or F(4x4, 3x3), with 36 for 144: Lavin and Gray, Fast Algorithms for
// Convolutional Neural Networks, 2016, section 4.
//
// Every tile of the result is computed from a patch of the input that is larger by a border of one. Patches, weights and
// tiles each have as many transformed values ("frequencies") as a patch has pixels, and for each frequency the convolution
// is a matrix product over channels. A block of tiles stays in the second-level cache from batch norm and ReLU of its pixels
// over transforms and products to the steps on the result. Layouts: patches (frequencies, tiles, channels in), weights
// (frequencies, in, out), results (frequencies, tiles, out).

#pragma once

#include <limits>

#include "steps.hpp"
#include "gemm.hpp"
#include "winograd_transforms.hpp"

namespace densekit::winograd {

// Call body(side) with the side of a tile in pixels. F(4x4, 3x3) has a 5 times larger rounding error, which vanishes in the
// rounding to bfloat16; it saves nothing where a picture is one tile of F(2x2, 3x3).
template <class T, class Body>
auto with_side(const Conv3x3Size& size, Body body) {
  if constexpr (std::is_same_v<T, bfloat16>)
    if (size.H > 2 || size.W > 2) return body(std::integral_constant<int, 4>());
  return body(std::integral_constant<int, 2>());
}

template <int side>
constexpr int kPatch = side + 2;  // side of the patch that a tile is computed from, in pixels
template <int side>
constexpr int kFrequencies = kPatch<side> * kPatch<side>;
// Bytes of the patches or results of a block: more for F(4x4, 3x3), whose weights are larger and should be reused more.
template <int side>
constexpr int64_t kBlockBytes = side == 2 ? 1 << 18 : 1 << 20;

struct Block {  // lines of tiles, numbered through all pictures, from tile `left` on
  int64_t first, lines, left, width;
  int64_t tiles() const { return lines * width; }
};

struct Part {  // the lines of a block that belong to one picture
  int64_t picture, top;  // lines of tiles above it in the picture
  int64_t above, lines;  // lines of tiles above it in the block, and its own
  int64_t parts;         // of the block, before it
};

// How pictures are divided into blocks.
template <class T, int side>
struct Grid {
  int64_t H, W, all;      // tiles of a picture; lines of tiles of all pictures
  int64_t lines, width;   // tiles of a block
  int64_t across, count;  // blocks in a line, and in all

  // As many tiles as fit into the cache, as patches or results, so that every thread gets the same number of blocks.
  explicit Grid(const Conv3x3Size& size)
      : H((size.H + side - 1) / side), W((size.W + side - 1) / side), all(size.N * H) {
    const int64_t bytes = kFrequencies<side> * sizeof(Acc<T>) * padded_stride<Acc<T>>(std::max(size.in, size.out));
    const int64_t tiles = std::max<int64_t>(1, kBlockBytes<side> / bytes);
    across = (W + tiles - 1) / tiles;
    width = (W + across - 1) / across;
    const int64_t most = std::max<int64_t>(1, tiles / width) * size.threads;
    const int64_t rounds = std::max<int64_t>(1, (all + most - 1) / most);
    lines = std::max<int64_t>(1, (all + rounds * size.threads - 1) / (rounds * size.threads));
    count = (all + lines - 1) / lines * across;
  }

  Block block(int64_t number) const {
    const int64_t first = number / across * lines, left = number % across * width;
    return {first, std::min(lines, all - first), left, std::min(width, W - left)};
  }

  // Call body(part) for every part of a block.
  template <class Body>
  void for_parts(Block block, Body body) const {
    int64_t parts = 0;
    for (int64_t above = 0, number; above < block.lines; above += number, ++parts) {
      const int64_t line = block.first + above, top = line % H;
      number = std::min(H - top, block.lines - above);
      body(Part{line / H, top, above, number, parts});
    }
  }
};

// The input of one block: its activated pixels with a border of one, zero outside of the picture, and its patches.
template <class T, int side>
class Patches {
  using A = Acc<T>;
  static constexpr int patch = kPatch<side>;

 public:
  Patches(const Conv3x3Size& size, const Grid<T, side>& grid)
      : size_(size), grid_(grid), width_(padded_stride<A>(size.in)),
        pixels_((side * grid.lines + 2 * (grid.lines / grid.H + 2)) * (side * grid.width + 2) * width_),
        patches_(kFrequencies<side> * padded_stride<A>(grid.lines * grid.width * width_)) {}

  void read(Pixels<const T> x, Activation<T> activation, Block block) {
    columns_ = side * block.width + 2;
    plane_ = padded_stride<A>(block.tiles() * width_);
    grid_.for_parts(block, [&](Part part) {
      for (int64_t i = 0; i < side * part.lines + 2; ++i)
        read_line(x, activation, part.picture, side * part.top - 1 + i, side * block.left - 1, pixel(part, i, 0));
      for (int64_t i = 0; i < part.lines; ++i)
        for (int64_t j = 0; j < block.width; ++j)
          transform(pixel(part, side * i, side * j), &patches_[((part.above + i) * block.width + j) * width_]);
    });
  }

  Matrix<const A> frequency(int number) const { return {&patches_[number * plane_], width_}; }

  // Pixel (i, j) of a part of the block and its border.
  A* pixel(Part part, int64_t i, int64_t j) const {
    return &pixels_[((side * part.above + 2 * part.parts + i) * columns_ + j) * width_];
  }

 private:
  void read_line(Pixels<const T> x, Activation<T> activation, int64_t n, int64_t h, int64_t w, A* to) const {
    const bool inside = h >= 0 && h < size_.H;
    const int64_t first = std::max<int64_t>(0, -w), last = std::min(columns_, size_.W - w);
    std::fill(to, to + (inside ? first : columns_) * width_, A(0));
    if (!inside) return;
    activation.apply(x.at(size_, n, h, w + first), Matrix<A>{to + first * width_, width_}, last - first, size_.in);
    std::fill(to + last * width_, to + columns_ * width_, A(0));
  }

  void transform(const A* from, A* to) const {
    const int64_t below = columns_ * width_;
    for (int64_t c = 0; c < size_.in; c += kLanes<A>) {
      Vector<A> columns[patch][patch], line[patch], values[patch];
      for (int j = 0; j < patch; ++j) {
        for (int i = 0; i < patch; ++i) line[i] = get(from + i * below + j * width_ + c);
        Winograd<side>::patch(line, columns[j]);
      }
      for (int i = 0; i < patch; ++i) {
        for (int j = 0; j < patch; ++j) line[j] = columns[j][i];
        Winograd<side>::patch(line, values);
        for (int j = 0; j < patch; ++j) put(to + (patch * i + j) * plane_ + c, values[j]);
      }
    }
  }

  Conv3x3Size size_;
  Grid<T, side> grid_;
  int64_t width_, columns_ = 0, plane_ = 0;
  Scratch<A> pixels_, patches_;
};

// The weights of a convolution; or, `rotated`, of the convolution that turns its result's gradient into its input's.
template <class T, int side>
class Weights {
  using A = Acc<T>;
  static constexpr int patch = kPatch<side>;

 public:
  Weights(const Conv3x3Size& size, Kernels<const T> kernels, bool rotated)
      : size_(size), kernels_(kernels), mirrored_(rotated), width_(whole_vectors<A>(size.out)),
        plane_(padded_stride<A>(size.in * width_)), frequencies_(kFrequencies<side> * plane_) {
    if (rotated) std::swap(kernels_.strides[0], kernels_.strides[1]);
  }

  A at(int64_t out, int64_t in, int tap) const { return load(kernels_.at(out, in, mirrored_ ? 8 - tap : tap)); }

  void transform(int64_t in) {
    for (int64_t first = 0; first < size_.out; first += kLanes<A>) {
      const int64_t number = std::min(kLanes<A>, size_.out - first);
      A* to = &frequencies_[in * width_ + first];
      Vector<A> taps[3][3] = {}, columns[3][patch], line[3], values[patch];  // taps by columns
      for (int tap = 0; tap < 9; ++tap)
        for (int64_t i = 0; i < number; ++i) taps[tap % 3][tap / 3][i] = at(first + i, in, tap);
      for (int j = 0; j < 3; ++j) Winograd<side>::weight(taps[j], columns[j]);
      for (int i = 0; i < patch; ++i) {
        for (int j = 0; j < 3; ++j) line[j] = columns[j][i];
        Winograd<side>::weight(line, values);
        for (int j = 0; j < patch; ++j) put(to + (patch * i + j) * plane_, values[j]);
      }
    }
  }

  Panels<A> frequency(int number) const {
    return Panels<A>::of({&frequencies_[number * plane_], width_});
  }
  int64_t width() const { return width_; }

 private:
  Conv3x3Size size_;
  Kernels<const T> kernels_;
  bool mirrored_;
  int64_t width_, plane_;  // values of a channel in, and of a frequency
  Scratch<A> frequencies_;
};

// The result of one block: frequencies, and pixels in lines as wide as its tiles.
template <class T, int side>
class Result {
  using A = Acc<T>;
  static constexpr int patch = kPatch<side>;

 public:
  Result(const Conv3x3Size& size, const Grid<T, side>& grid)
      : size_(size), grid_(grid), width_(padded_stride<A>(size.out)),
        frequencies_(kFrequencies<side> * padded_stride<A>(grid.lines * grid.width * width_)),
        pixels_(side * side * grid.lines * grid.width * width_) {}

  void compute(const Patches<T, side>& patches, const Weights<T, side>& weights, Block block) {
    const int64_t plane = padded_stride<A>(block.tiles() * width_);
    for (int f = 0; f < kFrequencies<side>; ++f) {
      const Matrix<const A> from = patches.frequency(f);
      multiply<false>(Strided<A>{from.data, from.stride, 1}, weights.frequency(f),
                      Matrix<A>{&frequencies_[f * plane], width_}, block.tiles(), weights.width(), size_.in);
    }
    Vector<A> check{};
    for (int64_t tile = 0; tile < block.tiles(); ++tile) {
      A* to = &pixels_[(tile / block.width * side * block.width + tile % block.width) * side * width_];
      transform(&frequencies_[tile * width_], plane, to, side * block.width * width_, check);
    }
    bool finite = true;
    for (int64_t lane = 0; lane < kLanes<A>; ++lane) finite &= check[lane] == 0;
    if (!finite) compute_by_definition(patches, weights, block);
  }

  Matrix<const A> line(Block block, int64_t number) const {
    return {&pixels_[number * side * block.width * width_], width_};
  }

 private:
  void transform(const A* from, int64_t plane, A* to, int64_t below, Vector<A>& check) const {
    for (int64_t c = 0; c < size_.out; c += kLanes<A>) {
      Vector<A> columns[patch][side], line[patch], values[side];
      for (int j = 0; j < patch; ++j) {
        for (int i = 0; i < patch; ++i) line[i] = get(from + (patch * i + j) * plane + c);
        Winograd<side>::result(line, columns[j]);
      }
      for (int i = 0; i < side; ++i) {
        for (int j = 0; j < patch; ++j) line[j] = columns[j][i];
        Winograd<side>::result(line, values);
        for (int j = 0; j < side; ++j) {
          put(to + i * below + j * width_ + c, values[j]);
          check += values[j] * A(0);  // NaN if the value is not finite
        }
      }
    }
  }

  // Direct convolution: NaN, infinity and overflow reach only the pixels whose receptive fields contain their cause.
  void compute_by_definition(const Patches<T, side>& patches, const Weights<T, side>& weights, Block block) {
    grid_.for_parts(block, [&](Part part) {
      for (int64_t i = 0; i < side * part.lines; ++i) {
        for (int64_t j = 0; j < side * block.width; ++j) {
          A* to = &pixels_[((side * part.above + i) * side * block.width + j) * width_];
          if (reads_nan(patches, part, i, j)) {  // as everywhere in a network that has diverged
            std::fill_n(to, size_.out, std::numeric_limits<A>::quiet_NaN());
            continue;
          }
          for (int64_t out = 0; out < size_.out; ++out) {
            A sum = 0;
            for (int tap = 0; tap < 9; ++tap) {
              const A* pixel = patches.pixel(part, i + tap / 3, j + tap % 3);
              for (int64_t in = 0; in < size_.in; ++in) sum += pixel[in] * weights.at(out, in, tap);
            }
            to[out] = sum;
          }
        }
      }
    });
  }

  bool reads_nan(const Patches<T, side>& patches, Part part, int64_t i, int64_t j) const {
    for (int tap = 0; tap < 9; ++tap)
      if (count_nan(patches.pixel(part, i + tap / 3, j + tap % 3), size_.in)) return true;
    return false;
  }

  Conv3x3Size size_;
  Grid<T, side> grid_;
  int64_t width_;
  Scratch<A> frequencies_, pixels_;
};

// Convolve, and call epilogue(thread, pixels, picture, h, w, number) for every line of pixels of every block.
template <class T, int side, class Epilogue>
void convolve(const Conv3x3Size& size, Pixels<const T> x, Activation<T> activation, Weights<T, side> weights,
              Epilogue epilogue) {
  const Grid<T, side> grid(size);
  const auto make = [&] { return std::tuple(Patches<T, side>(size, grid), Result<T, side>(size, grid)); };
  in_parallel(size.threads, make, [&](Patches<T, side>& patches, Result<T, side>& result) {
#pragma omp for schedule(static)
    for (int64_t in = 0; in < size.in; ++in) weights.transform(in);
#pragma omp for schedule(static)
    for (int64_t number = 0; number < grid.count; ++number) {
      const Block block = grid.block(number);
      patches.read(x, activation, block);
      result.compute(patches, weights, block);
      const int64_t w = side * block.left, pixels = std::min(side * block.width, size.W - w);
      grid.for_parts(block, [&](Part part) {
        const int64_t top = side * part.top, lines = std::min(side * part.lines, size.H - top);
        for (int64_t line = 0; line < lines; ++line)
          epilogue(omp_get_thread_num(), result.line(block, side * part.above + line), part.picture, top + line, w,
                 pixels);
      });
    }
  });
}

}  // namespace densekit::winograd
