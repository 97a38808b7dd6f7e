#include "cpu/parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#include <pthread.h>

namespace pyface {
namespace {

// libgomp's thread pool does not survive fork: a child that enters a parallel region may wait for ever.
bool forked_child = false;
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked_child = true; });

}  // namespace

int worker_count(int threads, int64_t work) {
  (void)fork_handler;
#ifdef _OPENMP
  if (threads <= 1 || forked_child || omp_in_parallel()) return 1;
  const int64_t useful = work / kWorkPerThread;
  return useful < 2 ? 1 : useful < threads ? static_cast<int>(useful) : threads;
#else
  (void)threads;
  (void)work;
  return 1;
#endif
}

}  // namespace pyface
