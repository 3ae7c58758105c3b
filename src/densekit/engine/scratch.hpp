// Memory for what lives no longer than a step. Each thread keeps its own from one step to the next, because the operating
// system clears memory that is new to a process, which takes longer than many steps.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "rows.hpp"

namespace densekit {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

struct Piece {
  std::unique_ptr<void, Free> memory;
  int64_t bytes = 0;
};

// Memory of this thread that is not in use.
inline thread_local std::vector<Piece> unused;

// Uninitialised values that begin on a cache line.
template <class T>
class Scratch {
 public:
#ifdef SANITIZED  // exactly as much as is asked for, never used twice, and NaN, so that sanitizers and tests see mistakes
  explicit Scratch(int64_t values) {
    void* memory;
    const int64_t bytes = std::max<int64_t>(1, values * sizeof(T));
    if (posix_memalign(&memory, 64, bytes)) throw std::bad_alloc();
    piece_ = {std::unique_ptr<void, Free>(std::memset(memory, 0xff, bytes)), 0};
  }
#else
  explicit Scratch(int64_t values) {
    const int64_t bytes = (values * int64_t(sizeof(T)) / 64 + 1) * 64;
    const auto better = [bytes](const Piece& one, const Piece& other) {  // the smallest that is enough, or the largest
      const bool enough = one.bytes >= bytes;
      if (enough != (other.bytes >= bytes)) return enough;
      return enough ? one.bytes < other.bytes : one.bytes > other.bytes;
    };
    if (!unused.empty()) {
      std::swap(*std::min_element(unused.begin(), unused.end(), better), unused.back());
      piece_ = std::move(unused.back());
      unused.pop_back();
    }
    if (piece_.bytes >= bytes) return;
    piece_ = {std::unique_ptr<void, Free>(std::aligned_alloc(64, bytes)), bytes};
    if (!piece_.memory) throw std::bad_alloc();
  }
#endif
  Scratch(Scratch&&) = default;
  ~Scratch() {
    if (!piece_.memory || !piece_.bytes) return;  // it was moved from, or is never used again
    try {
      unused.push_back(std::move(piece_));
    } catch (const std::bad_alloc&) {  // no room in the list: then it is freed
    }
  }

  T* data() const { return static_cast<T*>(piece_.memory.get()); }
  T& operator[](int64_t number) const { return data()[number]; }

 private:
  Piece piece_;
};

// Call body in every thread of a team, with what the tuple holds that make() returned there. No exception may leave a
// parallel region: if memory runs out in one thread, body is called in none, and std::bad_alloc is thrown behind the
// region.
template <class Make, class Body>
void in_parallel(int threads, Make make, Body body) {
  std::atomic<bool> enough = true;
#pragma omp parallel num_threads(threads)
  {
    std::optional<decltype(make())> own;
    try {
      own.emplace(make());
    } catch (const std::bad_alloc&) {
      enough = false;
    }
#pragma omp barrier
    if (enough) std::apply(body, *own);
  }
  if (!enough) throw std::bad_alloc();
}

// Add, to the values of the first thread of a team, those of the others, which follow one after the other; all threads call
// it, once every value is there.
template <class T>
void add_threads(T* values, int64_t length) {
  const int team = omp_get_num_threads();
  constexpr int64_t kPiece = 1024;
#pragma omp for schedule(static)
  for (int64_t first = 0; first < length; first += kPiece) {
    T* to = values + first;
    for (int other = 1; other < team; ++other) {
      const T* from = to + other * length;
#pragma omp simd
      for (int64_t i = 0; i < std::min(kPiece, length - first); ++i) to[i] += from[i];
    }
  }
}

}  // namespace densekit
