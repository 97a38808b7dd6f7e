// The second pass of reductions that blocks have shared: partial sums added in a fixed order.
#pragma once
#include "kernels/device.cuh"

namespace pyface::dev {

// out[g, j] = sum_i in[g, i, j]. kStrands threads share the rows of a column and add up in order of strand.
template <class T, int kN, int kStrands>
__global__ void __launch_bounds__(256) sum_rows_kernel(const float* __restrict__ in, T* __restrict__ out,
                                                       uint32_t groups, uint32_t rows, uint32_t columns) {
  constexpr int kColumns = 256 / kStrands;
  PYFACE_SHARED(memory);
  Vec<float, kN>* shared = reinterpret_cast<Vec<float, kN>*>(memory);
  const int own = int(threadIdx.x) % kColumns, strand = int(threadIdx.x) / kColumns;
  const uint32_t column = (blockIdx.x * kColumns + own) * kN;
  for (uint32_t group = blockIdx.y; group < groups; group += gridDim.y) {
    float sum[kN] = {};
    if (column < columns) {
      for (uint32_t row = strand; row < rows; row += kStrands) {
        float v[kN];
        read_vector(in + (size_t{group} * rows + row) * columns + column, v);
        PYFACE_UNROLL
        for (int k = 0; k < kN; k++) sum[k] += v[k];
      }
    }
    if constexpr (kStrands > 1) {
      Vec<float, kN> mine;
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) mine.v[k] = sum[k];
      shared[threadIdx.x] = mine;
      __syncthreads();
      if (strand == 0) {
        PYFACE_UNROLL
        for (int s = 1; s < kStrands; s++) {
          const Vec<float, kN> other = shared[s * kColumns + own];
          PYFACE_UNROLL
          for (int k = 0; k < kN; k++) sum[k] += other.v[k];
        }
      }
      __syncthreads();
    }
    if (strand == 0 && column < columns) {
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) out[size_t{group} * columns + column + k] = narrow<T>(sum[k]);
    }
  }
}

template <class T, class Launcher>
void run_sum_rows(const float* in, T* out, int64_t groups, int64_t rows, int64_t columns,
                  const Launcher& launch) {
  if (groups * columns == 0) return;
  const auto go = [&](auto kernel, const char* name, int strands, int width) {
    const int64_t per_block = 256 / strands * width;
    launch(name, kernel,
           dim3(unsigned(ceil_div(columns, per_block)), unsigned(std::min<int64_t>(groups, 65535))),
           dim3(256), strands > 1 ? size_t(256 * width) * sizeof(float) : size_t{0}, in, out,
           uint32_t(groups), uint32_t(rows), uint32_t(columns));
  };
  const bool vectors = columns % 4 == 0 && aligned16(in);
  if (rows < 32) {
    vectors ? go(sum_rows_kernel<T, 4, 1>, "sum_rows_kernel (4)", 1, 4)
            : go(sum_rows_kernel<T, 1, 1>, "sum_rows_kernel (1)", 1, 1);
  } else {
    vectors ? go(sum_rows_kernel<T, 4, 16>, "sum_rows_kernel (4, strands)", 16, 4)
            : go(sum_rows_kernel<T, 1, 16>, "sum_rows_kernel (1, strands)", 16, 1);
  }
}

}  // namespace pyface::dev
