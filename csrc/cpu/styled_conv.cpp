// A synthesis layer in one call: products of tiles, each followed by everything else that happens to it.
#include "pyface/styled_conv.h"

#include "cpu/styled_conv_amx.h"
#include "cpu/styled_conv_float.h"
#include "cpu/styled_conv_pack.h"
#include "cpu/styled_conv_split.h"
#include "cpu/styled_conv_up.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

template <class Products>
void layer(const StyledConvParams& p, int threads) {
  if (p.y != nullptr) clear_borders<Products>(p);
  if (p.up == 1) {
    if constexpr (Products::kSplits) {
      const SplitLayer<Products> split(p, threads);
      if (split.plan.splits) return split.run(split);
    }
    const PlainLayer<Products> plain(p, threads);
    plain.run(plain);
  } else {
    UpLayer<Products>(p, threads).run();
  }
}

}  // namespace

#if defined(__AMX_BF16__)
using FloatLayers = AmxProducts<3>;
#else
using FloatLayers = FloatProducts;
#endif

void pack_styled_conv(const PackStyledConvParams& p, int) {
  if (p.dtype == DType::kF32) return pack_weight_for<FloatLayers>(p);
#if defined(__AMX_BF16__)
  pack_weight_for<AmxProducts<1>>(p);
#endif
}

void block_activations(const BlockActivationsParams& p, int) {
  if (p.dtype == DType::kF32) return block_activations_for<FloatLayers>(p);
#if defined(__AMX_BF16__)
  block_activations_for<AmxProducts<1>>(p);
#endif
}

void styled_conv(const StyledConvParams& p, int threads) {
  if (p.dtype == DType::kF32) return layer<FloatLayers>(p, threads);
#if defined(__AMX_BF16__)
  layer<AmxProducts<1>>(p, threads);
#endif
}

}  // namespace pyface::PYFACE_ISA_NS
