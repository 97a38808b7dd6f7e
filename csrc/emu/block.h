// One CUDA block at a time on the CPU.
//   default              every CUDA thread is a fiber; a schedule chooses the order between barriers
//   PYFACE_EMU_THREADS   every CUDA thread is an OS thread, so that ThreadSanitizer sees races between them
// The emulator checks what the CUDA model forbids and says what and where: barriers that not all threads
// reach, collectives that lanes reach apart, launches beyond the limits. Shared memory is a heap block of the
// exact size, filled with NaN, so that AddressSanitizer sees overruns and uninitialised reads reach the
// output.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "emu/types.h"

#ifdef PYFACE_EMU_THREADS
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define PYFACE_EMU_ASAN 1
#endif
#if !defined(__x86_64__) && !defined(PYFACE_EMU_THREADS)
#error "the fibers of the emulator are written for x86-64; build with PYFACE_EMU_THREADS elsewhere"
#endif

namespace pyface::emu {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A line of kernel source.
struct Place {
  const char* file;
  int line;
};
// Last parameters of what kernels call: they become the line of the call. (A Place as one default argument
// would be the line of its declaration.)
#define PYFACE_EMU_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline bool same(const Place& a, const Place& b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}
inline std::string text(const char* what, const Place& at) {
  return std::string(what) + " at " + at.file + ":" + std::to_string(at.line);
}

enum class State : uint8_t { kRunning, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct AsyncCopy {
  void* to;
  const void* from;
  int bytes, zero_filled, group;
};

struct Thread {
  dim3 index;
  unsigned linear = 0, lane = 0, warp = 0;
  State state = State::kRunning;
  const char* what = "";  // the barrier or collective it waits at
  Place at{"", 0};
  unsigned mask = 0;  // the lanes that meet there
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;
  std::vector<AsyncCopy> copies;
  int committed_groups = 0;
};

// What the lanes of a warp lay open for each other between two warp barriers.
struct Warp {
  uint64_t value[32];
  float fragment[32][12];
  const void* row[32];
};

struct Block {
  dim3 index, size, grid;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  unsigned char* shared = nullptr;

  unsigned lanes_of(unsigned warp) const {
    const size_t count = std::min<size_t>(32, threads.size() - size_t{32} * warp);
    return count == 32 ? ~0u : (1u << count) - 1u;
  }
};

inline thread_local Block* block = nullptr;
inline thread_local Thread* self = nullptr;

// Order in which runnable threads run between two barriers.
enum class Schedule : int { kForward = 0, kReverse = 1, kRandom = 2 };

inline void check_mask(const char* what, const Place& at, unsigned mask) {
  if (!(mask >> self->lane & 1u)) {
    throw Error(text(what, at) + ": lane " + std::to_string(self->lane) + " of warp " +
                std::to_string(self->warp) + " calls it, but its mask leaves that lane out");
  }
}

#ifndef PYFACE_EMU_THREADS

// ---- fibers

// Saves the stack in *save and continues on `to`. System V x86-64: the six callee-saved registers live on the
// stack that is left.
__attribute__((naked, noinline)) inline void switch_stack(void** /*save*/, void* /*to*/) {
  __asm__(
      "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
      "mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
}

#ifdef PYFACE_EMU_ASAN
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif
constexpr uint64_t kStackGuard = 0x7079666163650a5aull;

// The fibers of the calling OS thread: their stacks, and the scheduler they return to.
struct Fibers {
  std::unique_ptr<char, void (*)(void*)> stacks{nullptr, std::free};
  size_t capacity = 0;
  void* scheduler = nullptr;
  const void* scheduler_bottom = nullptr;
  size_t scheduler_bytes = 0;
  void* scheduler_fake_stack = nullptr;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;

  char* stack(size_t i) const { return stacks.get() + i * kStackBytes; }
};
inline thread_local Fibers fibers;

inline void leave_fiber(bool for_ever) {
  Thread* me = self;
#ifdef PYFACE_EMU_ASAN
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &me->fake_stack, fibers.scheduler_bottom,
                                 fibers.scheduler_bytes);
#else
  (void)for_ever;
#endif
  switch_stack(&me->stack_pointer, fibers.scheduler);
#ifdef PYFACE_EMU_ASAN
  __sanitizer_finish_switch_fiber(me->fake_stack, &fibers.scheduler_bottom, &fibers.scheduler_bytes);
#endif
}

inline void fiber_main() {
#ifdef PYFACE_EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &fibers.scheduler_bottom, &fibers.scheduler_bytes);
#endif
  try {
    (*fibers.body)();
  } catch (...) {
    fibers.error = std::current_exception();
  }
  self->state = State::kDone;
  leave_fiber(true);
  std::abort();
}

inline void enter_fiber(Thread& thread, size_t i) {
  self = &thread;
#ifdef PYFACE_EMU_ASAN
  __sanitizer_start_switch_fiber(&fibers.scheduler_fake_stack, fibers.stack(i), kStackBytes);
#else
  (void)i;
#endif
  switch_stack(&fibers.scheduler, thread.stack_pointer);
#ifdef PYFACE_EMU_ASAN
  __sanitizer_finish_switch_fiber(fibers.scheduler_fake_stack, nullptr, nullptr);
#endif
}

inline void start_fibers(Block& b) {
  const size_t bytes = b.threads.size() * kStackBytes;
  if (fibers.capacity < bytes) {
    fibers.stacks.reset(static_cast<char*>(std::aligned_alloc(4096, bytes)));
    if (!fibers.stacks) throw std::bad_alloc();
    fibers.capacity = bytes;
  }
#ifdef PYFACE_EMU_ASAN
  __asan_unpoison_memory_region(fibers.stacks.get(), fibers.capacity);  // fibers end without unwinding
#endif
  for (size_t i = 0; i < b.threads.size(); i++) {
    Thread& t = b.threads[i];
    t.state = State::kRunning;
    t.copies.clear();
    t.committed_groups = 0;
    t.fake_stack = nullptr;
    std::memcpy(fibers.stack(i), &kStackGuard, sizeof kStackGuard);
    void** top = reinterpret_cast<void**>(fibers.stack(i) + kStackBytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    t.stack_pointer = top;
  }
}

inline void wait_at(State state, const char* what, const Place& at, unsigned mask) {
  self->state = state;
  self->what = what;
  self->at = at;
  self->mask = mask;
  leave_fiber(false);
}

// Releases the lanes of one warp that have met; throws when they never can. Returns whether any was released.
inline bool release_warp(Block& b, unsigned warp) {
  bool released = false;
  Thread* lanes = b.threads.data() + size_t{32} * warp;
  const unsigned present = b.lanes_of(warp);
  for (unsigned lane = 0; lane < 32 && (present >> lane & 1u); lane++) {
    const Thread& first = lanes[lane];
    if (first.state != State::kAtWarpBarrier) continue;
    const unsigned members = first.mask & present;
    bool met = true;
    for (unsigned other = 0; other < 32; other++) {
      if (!(members >> other & 1u)) continue;
      const Thread& peer = lanes[other];
      if (peer.state == State::kDone) {
        throw Error("warp " + std::to_string(warp) + ": lane " + std::to_string(lane) + " waits in " +
                    text(first.what, first.at) + " for lane " + std::to_string(other) + ", which has exited");
      }
      if (peer.state != State::kAtWarpBarrier) {
        met = false;
        continue;
      }
      if (!same(first.at, peer.at) || std::strcmp(first.what, peer.what) != 0 || first.mask != peer.mask) {
        throw Error("warp " + std::to_string(warp) + ": lanes " + std::to_string(lane) + " and " +
                    std::to_string(other) + " wait at different collectives: " + text(first.what, first.at) +
                    " and " + text(peer.what, peer.at));
      }
    }
    if (!met) continue;
    for (unsigned other = 0; other < 32; other++) {
      if (members >> other & 1u) lanes[other].state = State::kRunning;
    }
    released = true;
  }
  return released;
}

inline bool release_block(Block& b) {
  const Thread* first = nullptr;
  size_t done = 0;
  for (const Thread& t : b.threads) {
    if (t.state == State::kDone) {
      done++;
      continue;
    }
    if (t.state != State::kAtBlockBarrier) return false;
    if (!first) first = &t;
    if (!same(first->at, t.at)) {
      throw Error("divergent barrier: thread " + std::to_string(first->linear) + " waits in " +
                  text(first->what, first->at) + ", thread " + std::to_string(t.linear) + " in " +
                  text(t.what, t.at));
    }
  }
  if (!first) return false;
  if (done) {
    throw Error("divergent barrier: " + text(first->what, first->at) + " is not reached by " +
                std::to_string(done) + " threads that have exited");
  }
  for (Thread& t : b.threads) t.state = State::kRunning;
  return true;
}

[[noreturn]] inline void report_deadlock(const Block& b) {
  std::string message = "deadlock:";
  const Thread* last = nullptr;
  int listed = 0;
  for (const Thread& t : b.threads) {
    if (t.state == State::kDone || (last && same(last->at, t.at)) || listed == 4) continue;
    message +=
        (listed++ ? "; thread " : " thread ") + std::to_string(t.linear) + " waits in " + text(t.what, t.at);
    last = &t;
  }
  throw Error(message);
}

inline void run_block(Block& b, Schedule schedule, const std::function<void()>& body) {
  block = &b;
  fibers.body = &body;
  fibers.error = nullptr;
  start_fibers(b);
  const size_t count = b.threads.size();
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; i++) order[i] = schedule == Schedule::kReverse ? count - 1 - i : i;
  std::mt19937 random(1u + b.index.x * 7919u + b.index.y * 104729u + b.index.z * 1299709u);
  size_t done = 0;
  while (done < count) {
    if (schedule == Schedule::kRandom) std::shuffle(order.begin(), order.end(), random);
    bool progress = false;
    for (size_t i : order) {
      Thread& t = b.threads[i];
      if (t.state != State::kRunning) continue;
      progress = true;
      enter_fiber(t, i);
      if (fibers.error) std::rethrow_exception(fibers.error);
      if (t.state == State::kDone) {
        done++;
        uint64_t guard;
        std::memcpy(&guard, fibers.stack(i), sizeof guard);
        if (guard != kStackGuard) throw Error("a thread used more than the emulator's stack");
      }
    }
    for (unsigned warp = 0; warp < b.warps.size(); warp++) progress |= release_warp(b, warp);
    progress |= release_block(b);
    if (!progress && done < count) report_deadlock(b);
  }
}

#else

// ---- OS threads. Every meeting has its own lock: a lock shared by warps would order them and hide races.

struct Meeting {
  unsigned arrived = 0;
  uint64_t generation = 0;
};
struct Room {
  std::mutex lock;
  std::condition_variable changed;
  std::map<unsigned, Meeting> meetings;  // by lane mask; the block barrier has one meeting
};
struct Rooms {
  Room whole_block;
  std::vector<Room> warps;
  explicit Rooms(size_t warp_count) : warps(warp_count) {}
};
inline Rooms* rooms = nullptr;

inline void wait_at(State state, const char* what, const Place& at, unsigned mask) {
  const bool whole = state == State::kAtBlockBarrier;
  Room& room = whole ? rooms->whole_block : rooms->warps[self->warp];
  const unsigned key = whole ? 0u : mask & block->lanes_of(self->warp);
  const unsigned expected =
      whole ? static_cast<unsigned>(block->threads.size()) : static_cast<unsigned>(__builtin_popcount(key));
  std::unique_lock<std::mutex> lock(room.lock);
  Meeting& meeting = room.meetings[key];
  const uint64_t generation = meeting.generation;
  if (++meeting.arrived == expected) {
    meeting.arrived = 0;
    meeting.generation++;
    room.changed.notify_all();
    return;
  }
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(20);
  while (meeting.generation == generation) {
    if (room.changed.wait_until(lock, deadline) == std::cv_status::timeout &&
        meeting.generation == generation)
      throw Error("deadlock: thread " + std::to_string(self->linear) + " waits in " + text(what, at));
  }
}

inline void run_block(Block& b, Schedule, const std::function<void()>& body) {
  Rooms block_rooms(b.warps.size());
  rooms = &block_rooms;
  std::mutex error_lock;
  std::exception_ptr error;
  std::vector<std::thread> threads;
  threads.reserve(b.threads.size());
  for (Thread& t : b.threads) {
    threads.emplace_back([&] {
      block = &b;
      self = &t;
      t.copies.clear();
      t.committed_groups = 0;
      try {
        body();
      } catch (...) {
        const std::lock_guard<std::mutex> guard(error_lock);
        error = std::current_exception();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  rooms = nullptr;
  if (error) std::rethrow_exception(error);
}

#endif

// ---- launch

inline std::string text(const dim3& d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

constexpr size_t kMaxSharedBytes = 227 * 1024;

inline void check_launch(const dim3& grid, const dim3& threads, size_t shared) {
  const uint64_t count = uint64_t{threads.x} * threads.y * threads.z;
  if (count == 0 || count > 1024 || threads.z > 64) {
    throw Error("block " + text(threads) + "; allowed: 1 to 1024 threads, z up to 64");
  }
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw Error("grid " + text(grid) + "; allowed: 1 to 2147483647, 65535, 65535");
  }
  if (shared > kMaxSharedBytes) {
    throw Error("dynamic shared memory of " + std::to_string(shared) + " bytes; allowed: up to " +
                std::to_string(kMaxSharedBytes));
  }
}

// Shared memory of exactly `bytes`, 16-byte aligned, every byte 0xff (NaN in each float type).
inline std::unique_ptr<unsigned char, void (*)(void*)> make_shared_memory(size_t bytes) {
  void* memory = nullptr;
  if (bytes && posix_memalign(&memory, 16, bytes)) throw std::bad_alloc();
  if (bytes) std::memset(memory, 0xff, bytes);
  return {static_cast<unsigned char*>(memory), std::free};
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared,
            int schedule, const Arguments&... arguments) {
  if (schedule < 0 || schedule > 2) {
    throw Error("schedule " + std::to_string(schedule) + "; allowed: 0 forward, 1 reverse, 2 random");
  }
  Block b;
  b.size = threads;
  b.grid = grid;
  try {
    check_launch(grid, threads, shared);
    const size_t count = size_t{threads.x} * threads.y * threads.z;
    b.threads.resize(count);
    b.warps.resize((count + 31) / 32);
    for (size_t i = 0; i < count; i++) {
      Thread& t = b.threads[i];
      t.linear = static_cast<unsigned>(i);
      t.lane = t.linear % 32;
      t.warp = t.linear / 32;
      t.index =
          dim3(t.linear % threads.x, t.linear / threads.x % threads.y, t.linear / (threads.x * threads.y));
    }
    const std::function<void()> body = [&] { kernel(Parameters(arguments)...); };
    for (unsigned z = 0; z < grid.z; z++) {
      for (unsigned y = 0; y < grid.y; y++) {
        for (unsigned x = 0; x < grid.x; x++) {
          b.index = dim3(x, y, z);
          const auto memory = make_shared_memory(shared);
          b.shared = memory.get();
          run_block(b, static_cast<Schedule>(schedule), body);
        }
      }
    }
    block = nullptr;
  } catch (const Error& error) {
    block = nullptr;
    throw Error(std::string(name) + ": block " + text(b.index) + " of grid " + text(grid) + ": " +
                error.what());
  }
}

}  // namespace pyface::emu
