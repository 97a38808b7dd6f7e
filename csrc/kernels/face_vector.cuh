// Arithmetic of the face renderer, the same for one float (GPU, emulator) and for a packet of floats (CPU).
// Scene code is a template over F; a mask is bool or a vector of ints. Every function is elementary
// arithmetic, so all instruction sets agree but for the rounding of fused multiply-adds.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define PYFACE_FN __device__ __forceinline__
#define PYFACE_FN_SPLIT PYFACE_FN  // a call would pass its results through the stack
#define PYFACE_FACE_ROLLED _Pragma("unroll 1")
#else
#define PYFACE_FN static inline __attribute__((always_inline))
#define PYFACE_FN_SPLIT static __attribute__((noinline))
#define PYFACE_FACE_ROLLED
#endif

#ifdef PYFACE_ISA_NS
#define PYFACE_FACE_NS pyface::PYFACE_ISA_NS
#else
#define PYFACE_FACE_NS pyface::dev
#endif

#if defined(PYFACE_ISA_NS) && defined(__x86_64__)
#include <immintrin.h>
#endif

namespace PYFACE_FACE_NS {

template <class F>
struct Lanes;
template <>
struct Lanes<float> {
  using Int = int;
  using Mask = bool;
  static constexpr int kWidth = 1;
};

#ifdef __CUDACC__
PYFACE_FN float vmin(float a, float b) { return fminf(a, b); }
PYFACE_FN float vmax(float a, float b) { return fmaxf(a, b); }
PYFACE_FN float vabs(float a) { return fabsf(a); }
PYFACE_FN float vsqrt(float a) { return sqrtf(a); }
PYFACE_FN int as_int(float a) { return __float_as_int(a); }
PYFACE_FN float as_float(int a) { return __int_as_float(a); }
#else
PYFACE_FN float vmin(float a, float b) { return a < b ? a : b; }
PYFACE_FN float vmax(float a, float b) { return a > b ? a : b; }
PYFACE_FN float vabs(float a) { return a < 0.f ? -a : a; }
PYFACE_FN float vsqrt(float a) { return __builtin_sqrtf(a); }
PYFACE_FN int as_int(float a) {
  int i;
  __builtin_memcpy(&i, &a, 4);
  return i;
}
PYFACE_FN float as_float(int a) {
  float f;
  __builtin_memcpy(&f, &a, 4);
  return f;
}
#endif
PYFACE_FN float sel(bool m, float a, float b) { return m ? a : b; }
PYFACE_FN int sel(bool m, int a, int b) { return m ? a : b; }
PYFACE_FN bool any(bool m) { return m; }
PYFACE_FN int to_int(float a) { return static_cast<int>(a); }
PYFACE_FN float to_float(int a) { return static_cast<float>(a); }
PYFACE_FN int shift_right(int a, int n) { return static_cast<int>(static_cast<uint32_t>(a) >> n); }
PYFACE_FN int multiply(int a, int b) {
  return static_cast<int>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}
PYFACE_FN int add(int a, int b) {
  return static_cast<int>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}

#ifdef PYFACE_ISA_NS
#if defined(__AVX512F__)
constexpr int kPacketBytes = 64;
#elif defined(__AVX__)
constexpr int kPacketBytes = 32;
#else
constexpr int kPacketBytes = 16;
#endif
typedef float Packet __attribute__((vector_size(kPacketBytes)));
typedef int PacketInt __attribute__((vector_size(kPacketBytes)));
typedef unsigned PacketUnsigned __attribute__((vector_size(kPacketBytes)));

template <>
struct Lanes<Packet> {
  using Int = PacketInt;
  using Mask = PacketInt;
  static constexpr int kWidth = kPacketBytes / 4;
};

PYFACE_FN Packet sel(PacketInt m, Packet a, Packet b) { return m ? a : b; }
PYFACE_FN PacketInt sel(PacketInt m, PacketInt a, PacketInt b) { return m ? a : b; }
#if defined(__AVX512F__)
PYFACE_FN Packet vmin(Packet a, Packet b) { return _mm512_min_ps(a, b); }
PYFACE_FN Packet vmax(Packet a, Packet b) { return _mm512_max_ps(a, b); }
PYFACE_FN Packet vsqrt(Packet a) { return _mm512_sqrt_ps(a); }
PYFACE_FN bool any(PacketInt m) { return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0; }
#elif defined(__AVX__)
PYFACE_FN Packet vmin(Packet a, Packet b) { return _mm256_min_ps(a, b); }
PYFACE_FN Packet vmax(Packet a, Packet b) { return _mm256_max_ps(a, b); }
PYFACE_FN Packet vsqrt(Packet a) { return _mm256_sqrt_ps(a); }
PYFACE_FN bool any(PacketInt m) { return _mm256_movemask_ps((__m256)m) != 0; }
#elif defined(__x86_64__)
PYFACE_FN Packet vmin(Packet a, Packet b) { return _mm_min_ps(a, b); }
PYFACE_FN Packet vmax(Packet a, Packet b) { return _mm_max_ps(a, b); }
PYFACE_FN Packet vsqrt(Packet a) { return _mm_sqrt_ps(a); }
PYFACE_FN bool any(PacketInt m) { return _mm_movemask_ps((__m128)m) != 0; }
#else
PYFACE_FN Packet vmin(Packet a, Packet b) { return a < b ? a : b; }
PYFACE_FN Packet vmax(Packet a, Packet b) { return a > b ? a : b; }
PYFACE_FN Packet vsqrt(Packet a) {
  for (int i = 0; i < Lanes<Packet>::kWidth; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
PYFACE_FN bool any(PacketInt m) {
  int r = 0;
  for (int i = 0; i < Lanes<Packet>::kWidth; ++i) r |= m[i];
  return r != 0;
}
#endif
PYFACE_FN Packet vmin(Packet a, float b) { return vmin(a, Packet{} + b); }
PYFACE_FN Packet vmax(Packet a, float b) { return vmax(a, Packet{} + b); }
PYFACE_FN Packet sel(PacketInt m, float a, float b) { return m ? Packet{} + a : Packet{} + b; }
PYFACE_FN Packet sel(PacketInt m, Packet a, float b) { return m ? a : Packet{} + b; }
PYFACE_FN Packet sel(PacketInt m, float a, Packet b) { return m ? Packet{} + a : b; }
PYFACE_FN Packet vabs(Packet a) { return (Packet)((PacketInt)a & 0x7fffffff); }
PYFACE_FN PacketInt to_int(Packet a) { return __builtin_convertvector(a, PacketInt); }
PYFACE_FN Packet to_float(PacketInt a) { return __builtin_convertvector(a, Packet); }
PYFACE_FN PacketInt shift_right(PacketInt a, int n) { return (PacketInt)((PacketUnsigned)a >> n); }
PYFACE_FN PacketInt multiply(PacketInt a, int b) { return (PacketInt)((PacketUnsigned)a * (unsigned)b); }
PYFACE_FN PacketInt add(PacketInt a, int b) { return (PacketInt)((PacketUnsigned)a + (unsigned)b); }
PYFACE_FN PacketInt add(PacketInt a, PacketInt b) {
  return (PacketInt)((PacketUnsigned)a + (PacketUnsigned)b);
}
PYFACE_FN PacketInt as_int(Packet a) { return (PacketInt)a; }
PYFACE_FN Packet as_float(PacketInt a) { return (Packet)a; }
#endif

template <class F>
PYFACE_FN F splat(float a) {
  return F{} + a;
}
template <class F>
PYFACE_FN F vfloor(F a) {
  F t = to_float(to_int(a));
  return t - sel(t > a, F{} + 1.f, F{});
}
template <class F>
PYFACE_FN F clamp01(F a) {
  return vmin(vmax(a, 0.f), 1.f);
}
template <class F>
PYFACE_FN F clampf(F a, float lo, float hi) {
  return vmin(vmax(a, lo), hi);
}
template <class F>
PYFACE_FN F mix(F a, F b, F t) {
  return a + (b - a) * t;
}
template <class F>
PYFACE_FN F sq(F a) {
  return a * a;
}
// 0 below lo, 1 above hi (lo > hi turns it round), smooth between.
template <class F>
PYFACE_FN F ramp(F a, float lo, float hi) {
  F t = clamp01((a - lo) * (1.f / (hi - lo)));
  return t * t * (3.f - 2.f * t);
}
// Soft step of given width around 0: 1 where a << 0.
template <class F>
PYFACE_FN F inside(F a, float width) {
  F t = clamp01(0.5f - a * (0.5f / width));
  return t * t * (3.f - 2.f * t);
}
// 2^x for |x| < 120, relative error below 3e-6.
template <class F>
PYFACE_FN F vexp2(F x) {
  x = clampf(x, -120.f, 120.f);
  F i = vfloor(x);
  F f = x - i;
  F p = 1.f +
        f * (0.69314718f + f * (0.24022651f + f * (0.055504109f + f * (0.0096181291f + f * 0.0013333558f))));
  return p * as_float(multiply(add(to_int(i), 127), 1 << 23));
}
template <class F>
PYFACE_FN F vexp(F x) {
  return vexp2(x * 1.44269504f);
}
// exp(-a) for a >= 0, cheap: ((1 + a/16)^-1)^16 is within 3 % for a < 2 and falls to zero as a bell should.
template <class F>
PYFACE_FN F bell(F a) {
  F t = 1.f / (1.f + a * 0.125f);
  t = t * t;
  t = t * t;
  return t * t;
}
// sin(2 pi x)
template <class F>
PYFACE_FN F vsin1(F x) {
  F t = x - vfloor(x) - 0.5f;
  F s = t * (8.f - 16.f * vabs(t));
  return -(s * (0.775f + 0.225f * vabs(s)));
}
template <class F>
PYFACE_FN F vsin(F x) {
  return vsin1(x * 0.15915494f);
}
template <class F>
PYFACE_FN F vcos(F x) {
  return vsin1(x * 0.15915494f + 0.25f);
}
// Angle of (x, y) in turns, -0.5 to 0.5; error below 2e-4 turns.
template <class F>
PYFACE_FN F vatan2_turns(F y, F x) {
  F ax = vabs(x), ay = vabs(y);
  F hi = vmax(ax, ay), lo = vmin(ax, ay);
  F t = lo / vmax(hi, 1e-20f);
  F s = t * t;
  F r = t * (0.1591512f + s * (-0.0520440f + s * (0.0250f - s * 0.0072f)));
  r = sel(ay > ax, 0.25f - r, r);
  r = sel(x < 0.f, 0.5f - r, r);
  return sel(y < 0.f, -r, r);
}

template <class F>
struct V3 {
  F x, y, z;
};
using P3 = V3<float>;

template <class F>
PYFACE_FN V3<F> operator+(const V3<F>& a, const V3<F>& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class F>
PYFACE_FN V3<F> operator-(const V3<F>& a, const V3<F>& b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <class F, class S>
PYFACE_FN V3<F> operator*(const V3<F>& a, S s) {
  return {a.x * s, a.y * s, a.z * s};
}
template <class F>
PYFACE_FN V3<F> scaled(const V3<F>& a, const P3& b) {
  return {a.x * b.x, a.y * b.y, a.z * b.z};
}
template <class F>
PYFACE_FN F dot(const V3<F>& a, const V3<F>& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class F>
PYFACE_FN F dotc(const V3<F>& a, const P3& b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class F>
PYFACE_FN V3<F> normalize(const V3<F>& a) {
  F inv = 1.f / vsqrt(vmax(dot(a, a), 1e-20f));
  return {a.x * inv, a.y * inv, a.z * inv};
}
template <class F>
PYFACE_FN V3<F> sel3(typename Lanes<F>::Mask m, const V3<F>& a, const V3<F>& b) {
  return {sel(m, a.x, b.x), sel(m, a.y, b.y), sel(m, a.z, b.z)};
}
template <class F>
PYFACE_FN V3<F> mix3(const V3<F>& a, const V3<F>& b, F t) {
  return {mix(a.x, b.x, t), mix(a.y, b.y, t), mix(a.z, b.z, t)};
}
template <class F>
PYFACE_FN V3<F> splat3(const P3& a) {
  return {splat<F>(a.x), splat<F>(a.y), splat<F>(a.z)};
}

// ---- hashed value noise: depends on the lattice point and the seed only
template <class I>
PYFACE_FN I hash(I h) {
  h = multiply(h ^ shift_right(h, 15), 0x2c1b3c6d);
  h = multiply(h ^ shift_right(h, 12), 0x297a2d39);
  return h ^ shift_right(h, 15);
}
template <class I>
PYFACE_FN auto unit(I h) {
  return to_float(shift_right(h, 8)) * (1.f / 16777216.f);
}
template <class F>
PYFACE_FN F noise2(F x, F y, int seed) {
  using I = typename Lanes<F>::Int;
  F fx = vfloor(x), fy = vfloor(y);
  F tx = x - fx, ty = y - fy;
  tx = tx * tx * (3.f - 2.f * tx);
  ty = ty * ty * (3.f - 2.f * ty);
  I ix = multiply(to_int(fx), 0x1f1f1f35), iy = add(multiply(to_int(fy), 0x5f356495), seed);
  I jx = add(ix, 0x1f1f1f35), jy = add(iy, 0x5f356495);
  F a = mix(unit(hash(add(ix, iy))), unit(hash(add(jx, iy))), tx);
  F b = mix(unit(hash(add(ix, jy))), unit(hash(add(jx, jy))), tx);
  return mix(a, b, ty);
}
template <class F>
PYFACE_FN F noise3(F x, F y, F z, int seed) {
  using I = typename Lanes<F>::Int;
  F fz = vfloor(z);
  F tz = z - fz;
  tz = tz * tz * (3.f - 2.f * tz);
  F fx = vfloor(x), fy = vfloor(y);
  F tx = x - fx, ty = y - fy;
  tx = tx * tx * (3.f - 2.f * tx);
  ty = ty * ty * (3.f - 2.f * ty);
  I ix = multiply(to_int(fx), 0x1f1f1f35), iy = add(multiply(to_int(fy), 0x5f356495), seed);
  I iz = multiply(to_int(fz), 0x6a09e667);
  I jx = add(ix, 0x1f1f1f35), jy = add(iy, 0x5f356495), jz = add(iz, 0x6a09e667);
  I ii = add(iy, iz), ji = add(jy, iz), ij = add(iy, jz), jj = add(jy, jz);
  F a = mix(unit(hash(add(ix, ii))), unit(hash(add(jx, ii))), tx);
  F b = mix(unit(hash(add(ix, ji))), unit(hash(add(jx, ji))), tx);
  F c = mix(unit(hash(add(ix, ij))), unit(hash(add(jx, ij))), tx);
  F d = mix(unit(hash(add(ix, jj))), unit(hash(add(jx, jj))), tx);
  return mix(mix(a, b, ty), mix(c, d, ty), tz);
}
PYFACE_FN float hash_unit(int i, int seed) { return unit(hash(add(multiply(i, 0x1f1f1f35), seed))); }

}  // namespace PYFACE_FACE_NS
