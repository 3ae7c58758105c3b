// The 3x3 convolution by its definition, in AMX's tiles: a product for each of its nine taps, with the sums in registers.
//
// The pixels of a block of lines are stored consecutively with zeros around them, so that the 16 pixels of a tile are still
// consecutive when a tap shifts them. The results at the zeros are computed too, but not read. A block stays in the
// second-level cache from batch norm and ReLU of its pixels over the products to the steps on the result.

#pragma once

#include "steps.hpp"
#include "gemm_amx.hpp"

#ifdef HAS_TILES
namespace densekit::direct {

struct Part {  // the lines of a block that belong to one picture
  int64_t picture, top, lines;
  int64_t slot;  // of its first line; the slots before it and after its last line are border
};

// How pictures are divided into blocks of lines.
struct Grid {
  int64_t H, W, all;     // lines of all pictures
  int64_t lines, count;  // of a block; blocks

  // As many lines as fit into the cache, as pixels or results, so that every thread gets the same number of blocks.
  explicit Grid(const Conv3x3Size& size) : H(size.H), W(size.W), all(size.N * size.H) {
    const int64_t bytes = sizeof(float) * (W + 1) * padded_stride<float>(std::max(size.in, size.out));
    const int64_t most = std::max<int64_t>(1, (1 << 19) / bytes) * size.threads;
    const int64_t rounds = (all + most - 1) / most;
    lines = (all + rounds * size.threads - 1) / (rounds * size.threads);
    count = (all + lines - 1) / lines;
  }

  int64_t step() const { return W + 1; }  // from line to line, which share a border
  int64_t place(int64_t slot, int64_t column) const { return 1 + slot * step() + column; }
  int64_t most_slots() const { return lines + lines / H + 4; }

  // Call body(part) for every part of a block; return how many slots it has.
  template <class Body>
  int64_t for_parts(int64_t block, Body body) const {
    int64_t slot = 1;
    const int64_t end = std::min(all, (block + 1) * lines);
    for (int64_t line = block * lines, number; line < end; line += number, slot += number + 1) {
      number = std::min(H - line % H, end - line);
      body(Part{line / H, line % H, number, slot});
    }
    return slot;
  }
};

// Pixels of one block and their border, activated.
class Input {
 public:
  Input(const Conv3x3Size& size, const Grid& grid)
      : size_(size), grid_(grid), width_(padded_stride<bfloat16>(size.in)),
        pixels_((grid_.place(grid.most_slots(), 0) + 2 * kTile) * width_) {}

  // Read a block, with the neighbouring lines of its pictures or with zeros instead. Return the number of places.
  int64_t read(Pixels<const bfloat16> x, Activation<bfloat16> activation, int64_t block, bool neighbours) {
    const int64_t slots = grid_.for_parts(block, [&](Part part) {
      for (int64_t i = -1; i <= part.lines; ++i) {
        const int64_t h = part.top + i;
        const bool inside = (0 <= h && h < size_.H) && (neighbours || (0 <= i && i < part.lines));
        read_line(x, activation, part.picture, inside ? h : -1, grid_.place(part.slot + i, 0));
      }
    });
    std::fill_n(&pixels_[0], width_, bfloat16{});
    const int64_t end = grid_.place(slots, 0);
    std::fill_n(&pixels_[end * width_], 2 * kTile * width_, bfloat16{});
    return end;
  }

  Matrix<const bfloat16> from(int64_t place) const { return {&pixels_[place * width_], width_}; }

 private:
  void read_line(Pixels<const bfloat16> x, Activation<bfloat16> activation, int64_t n, int64_t h, int64_t first) const {
    const Matrix<bfloat16> to{&pixels_[first * width_], width_};
    if (h < 0) {
      std::fill_n(to.data, (size_.W + 1) * width_, bfloat16{});
      return;
    }
    activation.apply(x.at(size_, n, h, 0), to, size_.W, size_.in);
    finish_operands<bfloat16>(to, size_.W, size_.in);
    std::fill_n(to.row(size_.W), width_, bfloat16{});
  }

  Conv3x3Size size_;
  Grid grid_;
  int64_t width_;
  Scratch<bfloat16> pixels_;
};

struct Taps {  // consecutive pixels; `away` is the offset in values from a pixel to its operands at each tile of the depth
  const bfloat16* data;
  int64_t row;
  const int64_t* away;
  const bfloat16* at(int64_t pixel, int64_t depth) const { return data + pixel * row + away[depth / kTile]; }
};

// Convolve, and call epilogue(thread, pixels, picture, h, w, number) for every line of pixels.
template <class Epilogue>
void convolve(const Conv3x3Size& size, Pixels<const bfloat16> x, Activation<bfloat16> activation,
              Kernels<const bfloat16> kernels, bool rotated, Epilogue epilogue) {
  const Grid grid(size);
  const int64_t depth = operands<bfloat16>(size.in), width = padded_stride<float>(size.out);
  Packed<Pair> packed(9 * depth, size.out);
  if (rotated) std::swap(kernels.strides[0], kernels.strides[1]);
  std::vector<int64_t> away;
  for (int tap = 0; tap < 9; ++tap)
    for (int64_t d = 0; d < depth; d += kTile)
      away.push_back(((tap / 3 - 1) * grid.step() + tap % 3 - 1) * padded_stride<bfloat16>(size.in) + 2 * d);
  const int64_t most = whole_tiles<bfloat16>(grid.most_slots() * grid.step());
  const auto make = [&] { return std::tuple(Input(size, grid), Scratch<float>(most * width)); };
  in_parallel(size.threads, make, [&](Input& input, const Scratch<float>& result) {
#pragma omp for schedule(static)
    for (int64_t row = 0; row < 9 * depth; ++row) {
      const int64_t in = row % depth * 2;
      const int tap = rotated ? 8 - int(row / depth) : int(row / depth);
      packed.pack(row, [=](int64_t out) {
        const auto value = [=](int64_t in) { return in < size.in ? kernels.at(out, in, tap) : bfloat16{}; };
        return Pair{value(in), value(in + 1)};
      });
    }
#pragma omp for schedule(static)
    for (int64_t block = 0; block < grid.count; ++block) {
      const int64_t end = input.read(x, activation, block, true), first = grid.place(1, 0);
      const Matrix<const bfloat16> from = input.from(first);
      multiply<false>(Taps{from.data, from.stride, away.data()}, packed.panels(), {result.data(), width},
                      end - grid.step() - first, whole_vectors<float>(size.out), 9 * depth);
      grid.for_parts(block, [&](Part part) {
        for (int64_t i = 0; i < part.lines; ++i) {
          const Matrix<const float> line{&result[(grid.place(part.slot + i, 0) - first) * width], width};
          epilogue(omp_get_thread_num(), line, part.picture, part.top + i, 0, size.W);
        }
      });
    }
  });
}

// Returns false if a result is not finite: the zeros around the pixels may have turned infinity into NaN elsewhere.
inline bool weight_gradient(const Conv3x3Size& size, Pixels<const bfloat16> dy, Pixels<const bfloat16> x,
                            Activation<bfloat16> activation, Kernels<float> weights) {
  const Grid grid(size);
  const Conv3x3Size back{size.N, size.H, size.W, size.out, size.in, size.threads};
  const int64_t width = padded_stride<float>(size.in), rows = whole_tiles<bfloat16>(size.out), plane = rows * width;
  const Scratch<float> sums(size.threads * 9 * plane);
  const int64_t most = operands<bfloat16>(grid.place(grid.most_slots(), 0));
  // zeros before and after, as a tap shifts the pixels
  const int64_t border = (grid.step() / 2 + 1 + kTile) / kTile * kTile, over_width = padded_stride<Pair>(most + 2 * border);
  std::atomic<bool> finite = true;
  const auto make = [&] {
    return std::tuple(Input(size, grid), Input(back, grid), Scratch<Pair>(most * width),
                      Scratch<Pair>(rows * over_width));
  };
  in_parallel(size.threads, make, [&](Input& input, Input& gradients, const Scratch<Pair>& pairs,
                                      const Scratch<Pair>& over) {
    std::fill_n(over.data(), rows * over_width, Pair{});
    float* own = &sums[omp_get_thread_num() * 9 * plane];
    bool begun = false;
#pragma omp for schedule(static) nowait
    for (int64_t block = 0; block < grid.count; ++block) {
      const int64_t end = input.read(x, activation, block, true), depth = operands<bfloat16>(end);
      gradients.read(dy, {}, block, false);
      pair_rows(input.from(0), nullptr, nullptr, Matrix<Pair>{pairs.data(), width}, 2 * depth, size.in);
      transpose_rows(gradients.from(0), Matrix<Pair>{over.data() + border, over_width}, end, depth, size.out);
      for (int64_t row = 0; row < size.out; ++row)
        std::fill_n(&over[row * over_width + border + depth], border, Pair{});
      for (int tap = 0; tap < 9; ++tap) {
        const int64_t moved = (tap / 3 - 1) * grid.step() + tap % 3 - 1;
        const auto* from = reinterpret_cast<const bfloat16*>(over.data() + border) - moved;
        const Strided<bfloat16> a{from, 2 * over_width, 2};
        const auto b = Panels<Pair>::of({pairs.data(), width});
        const Matrix<float> sum{own + tap * plane, width};
        if (begun)
          multiply<true>(a, b, sum, size.out, whole_vectors<float>(size.in), depth);
        else
          multiply<false>(a, b, sum, size.out, whole_vectors<float>(size.in), depth);
      }
      begun = true;
    }
    if (!begun) std::fill_n(own, 9 * plane, 0.f);
    const int team = omp_get_num_threads();
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t out = 0; out < size.out; ++out)
      for (int tap = 0; tap < 9; ++tap)
        for (int64_t in = 0; in < size.in; ++in) {
          float sum = 0;
          for (int thread = 0; thread < team; ++thread)
            sum += sums[(9 * thread + tap) * plane + out * width + in];
          weights.at(out, in, tap) = sum;
          if (!(sum * 0 == 0)) finite = false;
        }
  });
  return finite;
}

}  // namespace densekit::direct
#endif
