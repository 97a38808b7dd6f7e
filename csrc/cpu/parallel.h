// Splits the work of a CPU kernel among OpenMP threads.
#pragma once
#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace pyface {

// Elements for which starting one more thread pays.
constexpr int64_t kWorkPerThread = 32768;

// Threads to use for `work` elements: at most `threads`; 1 in a child of fork and inside a parallel region.
int worker_count(int threads, int64_t work);

#ifdef PYFACE_ISA_NS
namespace PYFACE_ISA_NS {
namespace {

// Calls body(worker, begin, end) on `workers` contiguous parts of [0, count), cut at multiples of `grain`.
// One worker never enters an OpenMP region. The body must not throw.
template <class Body>
void parallel_ranges(int workers, int64_t count, int64_t grain, const Body& body) {
#ifdef _OPENMP
  if (workers > 1) {
#pragma omp parallel num_threads(workers)
    {
      const int64_t got = omp_get_num_threads(), worker = omp_get_thread_num();
      const int64_t grains = (count + grain - 1) / grain, part = (grains + got - 1) / got * grain;
      const int64_t begin = worker * part;
      const int64_t end = begin + part < count ? begin + part : count;
      if (begin < end) body(static_cast<int>(worker), begin, end);
    }
    return;
  }
#endif
  (void)workers;
  (void)grain;
  if (count > 0) body(0, int64_t{0}, count);
}

// Walks the elements [begin, end) of rows of `length`: body(row, offset in the row, elements).
template <class Body>
void for_row_pieces(int64_t begin, int64_t end, int64_t length, const Body& body) {
  int64_t row = begin / length, offset = begin % length;
  while (begin < end) {
    const int64_t left = length - offset, piece = left < end - begin ? left : end - begin;
    body(row, offset, piece);
    begin += piece;
    offset = 0;
    ++row;
  }
}

}  // namespace
}  // namespace PYFACE_ISA_NS
#endif

}  // namespace pyface
