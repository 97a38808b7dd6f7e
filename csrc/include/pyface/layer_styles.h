// What the layers of a synthesis network take from its latents, for all layers in one call: styles,
// demodulation, biases and the weights of heads, padded as `styled_conv` reads them.
#pragma once
#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface {

constexpr int64_t kMostStyleSamples = 16;

// One affine layer s[n, i] = w[n] . weight[i] * weight_gain + bias[i] * bias_gain, and what its reader makes
// of it. A convolution (head null): styles[n, i] = s and demod[n, o] = gain / sqrt(sum of squares[o, i] *
// s[n, i]^2 + eps). A head: styles[n, k, i] = head[k, i] * s[n, i] * gain. Both: side_out[o] = side[o] *
// side_gain. Outputs are padded with zeros to a multiple of 32 along their last axis, but for a head's
// side_out, which has out_channels elements.
struct LayerStyle {
  const void* weight;   // [channels, w_dim] of weight_dtype: float32 or float16
  const float* bias;    // [channels] or null
  const float* head;    // [out_channels, channels], or null
  const void* squares;  // [padded out_channels, padded channels] of a convolution: float32 or bfloat16
  const float* side;    // [out_channels]
  float* styles;        // samples are style_stride floats apart
  float* demod;         // [n, padded out_channels]
  float* side_out;
  int64_t channels, out_channels, w_index, style_stride, weight_dtype, squares_dtype;
  double gain, side_gain, weight_gain, bias_gain;
};

struct LayerStylesParams {
  const LayerStyle* layers;
  int64_t count;
  const float* ws;  // [n, num_ws, w_dim] dense
  int64_t n, num_ws, w_dim;
};

inline void validate(const LayerStylesParams& p) {
  const char* op = "layer_styles";
  check_int_range(op, "n", p.n, 1, kMostStyleSamples);
  check_int_range(op, "count", p.count, 1, 1 << 16);
  check_int_range(op, "w_dim", p.w_dim, 1, 1 << 20);
  check_pointer(op, "layers", p.layers);
  check_pointer(op, "ws", p.ws);
  for (int64_t i = 0; i < p.count; ++i) {
    const LayerStyle& layer = p.layers[i];
    check_int_range(op, "channels", layer.channels, 1, 1 << 20);
    check_int_range(op, "out_channels", layer.out_channels, 1, 1 << 20);
    check_int_range(op, "w_index", layer.w_index, 0, p.num_ws - 1);
    const auto weight_dtype = static_cast<DType>(layer.weight_dtype);
    PYFACE_CHECK(weight_dtype == DType::kF32 || weight_dtype == DType::kF16, op, "weight_dtype",
                 std::to_string(layer.weight_dtype), "0 float32, 3 float16");
    check_pointer(op, "weight", layer.weight);
    check_pointer(op, "side", layer.side);
    check_pointer(op, "styles", layer.styles);
    check_pointer(op, "side_out", layer.side_out);
    if (layer.head != nullptr) continue;
    const auto squares_dtype = static_cast<DType>(layer.squares_dtype);
    PYFACE_CHECK(squares_dtype == DType::kF32 || squares_dtype == DType::kBF16, op, "squares_dtype",
                 std::to_string(layer.squares_dtype), "0 float32, 2 bfloat16");
    check_pointer(op, "squares", layer.squares);
    check_pointer(op, "demod", layer.demod);
  }
}

// A number that changes (all but surely) when the values of a tensor do, of one line of 64 bytes in 64 KB, or
// of 64 lines at least: notices optimisers and others that write whole tensors. `bytes` from `data` on.
struct FingerprintParams {
  const void* data;
  int64_t bytes;
  uint64_t* result;
};

void launch_layer_styles_cpu(const LayerStylesParams& p, int threads);
void launch_fingerprint_cpu(const FingerprintParams& p, int threads);

}  // namespace pyface
