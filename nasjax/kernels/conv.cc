// Grouped convolution in time, clipped ReLU and dropout, for CPUs.
//
// One custom call of XLA's foreign function interface for each direction.
// Tensors are [member, batch, time, channel], channel (i, g) of a group of c
// at i * G + g, so that G runs along the vector units. A task copies the
// channels of V groups of one utterance into a strip [time][c][V], zeroed
// before, behind and past the utterance's end, and works in registers from
// there: no im2col, no product with zeros, each frame read once a direction.
//
// Sums are cut in a way that does not depend on the number of threads: results
// are the same bits on any machine with the same vector width.

#include <vector>

#include "common.h"

namespace nasjax {
namespace {

// The `lowbias32` hash, as in dropout.py.
template <typename T>
inline T Mix(T h) {
  h = (h ^ (h >> 16)) * 0x7FEB352Du;
  h = (h ^ (h >> 15)) * 0x846CA68Bu;
  return h ^ (h >> 16);
}

struct Sizes {
  int64_t members, batch, frames, c, groups, taps;
  int64_t channels() const { return c * groups; }
  int64_t chunks() const { return (groups + V - 1) / V; }
  int lanes(int64_t chunk) const {
    return static_cast<int>(std::min<int64_t>(V, groups - chunk * V));
  }
};

// What the taps of one member read: `count` of them, `shift` frames ahead.
struct Taps {
  int count, before = 0, behind = 0;
  int shift[16];
  Taps(const int32_t* data, int64_t most, int sign = 1)
      : count(static_cast<int>(std::clamp<int64_t>(data[0], 0, most))) {
    for (int k = 0; k < count; ++k) {
      shift[k] = sign * data[1 + k];
      before = std::max(before, -shift[k]);
      behind = std::max(behind, shift[k]);
    }
  }
};

// Frames of V groups of one utterance, with zeros around them.
class Strip {
 public:
  void Reset(const Sizes& s, const Taps& taps) {
    c_ = s.c;
    before_ = taps.before;
    rows_ = s.frames + taps.before + taps.behind;
    data_.resize(rows_ * c_ + 1);
    // std::vector does not align to a vector's size.
    auto at = reinterpret_cast<uintptr_t>(data_.data());
    base_ = reinterpret_cast<Vec*>((at + sizeof(Vec) - 1) / sizeof(Vec) *
                                   sizeof(Vec));
  }
  Vec* row(int64_t t) { return base_ + (t + before_) * c_; }
  const Vec* row(int64_t t) const { return base_ + (t + before_) * c_; }
  // Zeroes the rows before the first frame and from `valid` on.
  void ZeroOutside(int64_t valid) {
    std::memset(base_, 0, sizeof(Vec) * before_ * c_);
    std::memset(row(valid), 0, sizeof(Vec) * (rows_ - before_ - valid) * c_);
  }
  void Fill(const Sizes& s, const float* x, int64_t valid, int lanes) {
    ZeroOutside(valid);
    for (int64_t t = 0; t < valid; ++t) {
      Vec* to = row(t);
      for (int64_t i = 0; i < s.c; ++i) {
        to[i] = Load(x + t * s.channels() + i * s.groups, lanes);
      }
    }
  }

 private:
  struct alignas(4) Raw { float v[V]; };
  std::vector<Raw> data_;
  Vec* base_ = nullptr;
  int64_t c_ = 0, rows_ = 0, before_ = 0;
};

// Weights of V groups, [tap][from][to][V]; transposed for the gradient.
void PackKernel(const Sizes& s, const Taps& taps, const float* kernel,
                bool transposed, int lanes, std::vector<float>& out) {
  out.resize((taps.count * s.c * s.c + 1) * V);
  for (int64_t k = 0; k < taps.count; ++k) {
    for (int64_t i = 0; i < s.c; ++i) {
      for (int64_t j = 0; j < s.c; ++j) {
        Vec w = Load(kernel + ((k * s.c + i) * s.c + j) * s.groups, lanes);
        int64_t at = (k * s.c + (transposed ? j : i)) * s.c +
                     (transposed ? i : j);
        Store(out.data() + at * V, w);
      }
    }
  }
}

// TB frames x JB outputs of the convolution, summed in registers.
template <int TB, int JB, typename Finish>
inline void Tile(const Sizes& s, const Taps& taps, const Strip& x,
                 const float* w, int64_t t, int64_t j, const Finish& finish) {
  Vec sum[TB][JB] = {};
  for (int k = 0; k < taps.count; ++k) {
    const Vec* rows = x.row(t + taps.shift[k]);
    for (int64_t i = 0; i < s.c; ++i) {
      const float* from = w + ((k * s.c + i) * s.c + j) * V;
      Vec wv[JB];
#pragma GCC unroll 8
      for (int n = 0; n < JB; ++n) wv[n] = Load(from + n * V);
#pragma GCC unroll 8
      for (int a = 0; a < TB; ++a) {
        Vec xv = rows[a * s.c + i];
        Pin(xv);
#pragma GCC unroll 8
        for (int n = 0; n < JB; ++n) sum[a][n] += xv * wv[n];
      }
    }
  }
#pragma GCC unroll 8
  for (int a = 0; a < TB; ++a) {
#pragma GCC unroll 8
    for (int n = 0; n < JB; ++n) finish(t + a, j + n, sum[a][n]);
  }
}

template <int JB, typename Finish>
void Column(const Sizes& s, const Taps& taps, const Strip& x, const float* w,
            int64_t j, const Finish& finish) {
  int64_t t = 0;
  for (; t + 6 <= s.frames; t += 6) {
    Tile<6, JB>(s, taps, x, w, t, j, finish);
  }
  for (; t + 2 <= s.frames; t += 2) {
    Tile<2, JB>(s, taps, x, w, t, j, finish);
  }
  if (t < s.frames) Tile<1, JB>(s, taps, x, w, t, j, finish);
}

// Calls body(start, size) for even pieces of at most 4 of 0 .. n - 1.
template <typename Body>
void InFours(int64_t n, const Body& body) {
  int64_t pieces = (n + 3) / 4;
  for (int64_t p = 0; p < pieces; ++p) {
    body(n * p / pieces, n * (p + 1) / pieces - n * p / pieces);
  }
}

// The convolution of a strip; finish(t, j, value) takes each output.
template <typename Finish>
void Convolve(const Sizes& s, const Taps& taps, const Strip& x, const float* w,
              const Finish& finish) {
  InFours(s.c, [&](int64_t j, int64_t size) {
    switch (size) {
      case 1: return Column<1>(s, taps, x, w, j, finish);
      case 2: return Column<2>(s, taps, x, w, j, finish);
      case 3: return Column<3>(s, taps, x, w, j, finish);
      default: return Column<4>(s, taps, x, w, j, finish);
    }
  });
}

// dw[k + n][i ..][j ..] += sum over t of x[t + shift] dy[t].
template <int KB, int IB, int JB>
void Correlate(const Sizes& s, const Taps& taps, const Strip& x,
               const Strip& dy, int k, int64_t i, int64_t j, float* dw) {
  Vec sum[KB][IB][JB] = {};
  const Vec* from[KB];
  for (int n = 0; n < KB; ++n) from[n] = x.row(taps.shift[k + n]) + i;
  const Vec* by = dy.row(0) + j;
  for (int64_t t = 0; t < s.frames; ++t, by += s.c) {
    Vec g[JB];
#pragma GCC unroll 4
    for (int b = 0; b < JB; ++b) g[b] = by[b];
#pragma GCC unroll 4
    for (int n = 0; n < KB; ++n) {
#pragma GCC unroll 4
      for (int a = 0; a < IB; ++a) {
        Vec xv = from[n][t * s.c + a];
        Pin(xv);
#pragma GCC unroll 4
        for (int b = 0; b < JB; ++b) sum[n][a][b] += xv * g[b];
      }
    }
  }
  for (int n = 0; n < KB; ++n) {
    for (int a = 0; a < IB; ++a) {
      for (int b = 0; b < JB; ++b) {
        float* at = dw + (((k + n) * s.c + i + a) * s.c + j + b) * V;
        Store(at, Load(at) + sum[n][a][b]);
      }
    }
  }
}

template <int IB, int JB>
void CorrelateTaps(const Sizes& s, const Taps& taps, const Strip& x,
                   const Strip& dy, int64_t i, int64_t j, float* dw) {
  // Few channels leave registers for several taps at once.
  constexpr int KB = IB * JB == 1 ? 4 : IB * JB <= 4 ? 3 : 1;
  int k = 0;
  for (; k + KB <= taps.count; k += KB) {
    Correlate<KB, IB, JB>(s, taps, x, dy, k, i, j, dw);
  }
  for (; k < taps.count; ++k) {
    Correlate<1, IB, JB>(s, taps, x, dy, k, i, j, dw);
  }
}

template <int IB>
void CorrelateRow(const Sizes& s, const Taps& taps, const Strip& x,
                  const Strip& dy, int64_t i, int64_t j, int64_t size,
                  float* dw) {
  switch (size) {
    case 1: return CorrelateTaps<IB, 1>(s, taps, x, dy, i, j, dw);
    case 2: return CorrelateTaps<IB, 2>(s, taps, x, dy, i, j, dw);
    case 3: return CorrelateTaps<IB, 3>(s, taps, x, dy, i, j, dw);
    default: return CorrelateTaps<IB, 4>(s, taps, x, dy, i, j, dw);
  }
}

void KernelGradient(const Sizes& s, const Taps& taps, const Strip& x,
                    const Strip& dy, float* dw) {
  InFours(s.c, [&](int64_t i, int64_t is) {
    InFours(s.c, [&](int64_t j, int64_t js) {
      switch (is) {
        case 1: return CorrelateRow<1>(s, taps, x, dy, i, j, js, dw);
        case 2: return CorrelateRow<2>(s, taps, x, dy, i, j, js, dw);
        case 3: return CorrelateRow<3>(s, taps, x, dy, i, j, js, dw);
        default: return CorrelateRow<4>(s, taps, x, dy, i, j, js, dw);
      }
    });
  });
}

template <typename Buffer>
int64_t Count(const Buffer& buffer) {
  return static_cast<int64_t>(buffer.element_count());
}

// Operands are [members.., batch, time, channel] and so on: all with the same
// leading dimensions, folded into one here.
ffi::Error SizesOf(const F32& x, const F32& kernel, const S32& taps,
                   const S32& len, Sizes* s) {
  auto xd = x.dimensions(), kd = kernel.dimensions();
  if (xd.size() < 3 || kd.size() != xd.size() + 1) {
    return ffi::Error::InvalidArgument("conv: ranks of input and kernel");
  }
  size_t lead = xd.size() - 3;
  s->members = 1;
  for (size_t d = 0; d < lead; ++d) s->members *= xd[d];
  if (s->members == 0) {
    return ffi::Error::InvalidArgument("conv: there are no members");
  }
  s->batch = xd[lead];
  s->frames = xd[lead + 1];
  s->taps = kd[lead];
  s->c = kd[lead + 1];
  s->groups = kd[lead + 3];
  if (kd[lead + 2] != s->c || xd[lead + 2] != s->channels() || s->taps > 16 ||
      Count(kernel) != s->members * s->taps * s->c * s->channels()) {
    return ffi::Error::InvalidArgument("conv: sizes of input and kernel");
  }
  if (Count(taps) != s->members * (1 + s->taps)) {
    return ffi::Error::InvalidArgument("conv: size of taps");
  }
  if (Count(len) != s->members * s->batch) {
    return ffi::Error::InvalidArgument("conv: size of lengths");
  }
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, F32 x, F32 kernel, F32 bias, S32 taps,
                   S32 len, U32 key, ffi::Result<F32> out, float cap,
                   float scale, uint32_t threshold, uint32_t site) {
  Sizes s;
  if (auto error = SizesOf(x, kernel, taps, len, &s); error.failure()) {
    return error;
  }
  if (Count(bias) != s.members * s.channels()) {
    return ffi::Error::InvalidArgument("conv: size of bias");
  }
  if (Count(key) % s.members || Count(key) < 2 * s.members) {
    return ffi::Error::InvalidArgument("conv: size of key");
  }
  const int64_t plane = s.frames * s.channels();
  const float *xp = x.typed_data(), *wp = kernel.typed_data(),
              *bp = bias.typed_data();
  const int32_t *tp = taps.typed_data(), *lp = len.typed_data();
  const uint32_t* kp = key.typed_data();
  const int64_t words = Count(key) / s.members;
  float* yp = out->typed_data();
  ParallelFor(pool, s.members * s.chunks() * s.batch, [=](int64_t task) {
    int64_t b = task % s.batch, chunk = task / s.batch % s.chunks();
    int64_t p = task / s.batch / s.chunks();
    int lanes = s.lanes(chunk);
    int64_t g = chunk * V;
    thread_local Strip strip;
    thread_local std::vector<float> weights;
    Taps tap(tp + p * (1 + s.taps), s.taps);
    PackKernel(s, tap, wp + p * s.taps * s.c * s.channels() + g, false, lanes,
               weights);
    strip.Reset(s, tap);
    int64_t first = (p * s.batch + b) * plane + g;
    strip.Fill(s, xp + first,
               std::clamp<int64_t>(lp[p * s.batch + b], 0, s.frames), lanes);
    float* y = yp + first;
    const float* bias_p = bp + p * s.channels() + g;
    const uint32_t* key_p = kp + p * words;
    uint32_t salt = Mix(key_p[1] ^ site);
    uint32_t row = (words > 2 ? key_p[2] : 0) + static_cast<uint32_t>(b);
    uint32_t start = row * static_cast<uint32_t>(plane) + g;
    Bits lane;
    for (int v = 0; v < V; ++v) lane[v] = v;
    Convolve(s, tap, strip, weights.data(),
             [&](int64_t t, int64_t j, Vec value) {
      int64_t at = t * s.channels() + j * s.groups;
      value += Load(bias_p + j * s.groups, lanes);
      // Written so that NaN stays NaN: a diverged member must be noticed.
      if (cap >= 0.0f) {
        value = value < 0.0f ? Vec{} : value;
        value = value > cap ? Vec{} + cap : value;
      }
      if (threshold) {
        Bits at_v = lane + (start + static_cast<uint32_t>(at));
        Bits bits = Mix(Mix(at_v ^ key_p[0]) + salt);
        value = bits >= threshold ? value * scale : Vec{};
      }
      Store(y + at, value, lanes);
    });
  });
  return ffi::Error::Success();
}

// Utterances are summed in at most so many parts.
constexpr int64_t kParts = 4;

ffi::Error Backward(ffi::ThreadPool pool, F32 x, F32 kernel, S32 taps, S32 len,
                    F32 out, F32 dout, ffi::Result<F32> dx,
                    ffi::Result<F32> dkernel, ffi::Result<F32> dbias,
                    float cap, float scale) {
  Sizes s;
  if (auto error = SizesOf(x, kernel, taps, len, &s); error.failure()) {
    return error;
  }
  if (Count(out) != Count(x) || Count(dout) != Count(x)) {
    return ffi::Error::InvalidArgument("conv: sizes of input and output");
  }
  const int64_t plane = s.frames * s.channels();
  const int64_t parts = std::min(kParts, s.batch);
  const int64_t kernel_size = (s.taps * s.c * s.c + s.c) * V;
  const float *xp = x.typed_data(), *wp = kernel.typed_data(),
              *op = out.typed_data(), *gp = dout.typed_data();
  const int32_t *tp = taps.typed_data(), *lp = len.typed_data();
  float *dxp = dx->typed_data(), *dwp = dkernel->typed_data(),
        *dbp = dbias->typed_data();
  const float top = cap * scale;
  std::vector<float> partial(s.members * s.chunks() * parts * kernel_size);
  float* sums = partial.data();
  ParallelFor(pool, s.members * s.chunks() * parts, [=](int64_t task) {
    int64_t part = task % parts, chunk = task / parts % s.chunks();
    int64_t p = task / parts / s.chunks();
    int lanes = s.lanes(chunk);
    int64_t g = chunk * V;
    thread_local Strip xs, dys;
    thread_local std::vector<float> weights;
    Taps tap(tp + p * (1 + s.taps), s.taps);
    Taps back(tp + p * (1 + s.taps), s.taps, -1);
    PackKernel(s, tap, wp + p * s.taps * s.c * s.channels() + g, true, lanes,
               weights);
    xs.Reset(s, tap);
    dys.Reset(s, back);
    float* dw = sums + task * kernel_size;
    float* db = dw + s.taps * s.c * s.c * V;
    for (int64_t b = s.batch * part / parts; b < s.batch * (part + 1) / parts;
         ++b) {
      int64_t first = (p * s.batch + b) * plane + g;
      int64_t valid = std::clamp<int64_t>(lp[p * s.batch + b], 0, s.frames);
      xs.Fill(s, xp + first, valid, lanes);
      dys.ZeroOutside(s.frames);
      for (int64_t j = 0; j < s.c; ++j) {
        Vec total = {};
        for (int64_t t = 0; t < s.frames; ++t) {
          int64_t at = first + t * s.channels() + j * s.groups;
          Vec d = Load(gp + at, lanes) * scale;
          if (cap >= 0.0f) {
            Vec o = Load(op + at, lanes);
            // Dropped or clipped where the output is 0 or at its cap.
            d = (o > 0.0f) & (o < top) ? d : Vec{};
          }
          dys.row(t)[j] = d;
          total += d;
        }
        Store(db + j * V, Load(db + j * V) + total);
      }
      Convolve(s, back, dys, weights.data(),
               [&](int64_t t, int64_t i, Vec value) {
        Store(dxp + first + t * s.channels() + i * s.groups,
              t < valid ? value : Vec{}, lanes);
      });
      KernelGradient(s, tap, xs, dys, dw);
    }
  });
  for (int64_t p = 0; p < s.members; ++p) {
    for (int64_t chunk = 0; chunk < s.chunks(); ++chunk) {
      int lanes = s.lanes(chunk);
      for (int64_t n = 0; n < kernel_size / V; ++n) {
        Vec total = {};
        for (int64_t part = 0; part < parts; ++part) {
          total += Load(
              sums + ((p * s.chunks() + chunk) * parts + part) * kernel_size +
              n * V);
        }
        int64_t k_size = s.taps * s.c * s.c;
        float* to = n < k_size
                        ? dwp + (p * k_size + n) * s.groups
                        : dbp + (p * s.c + n - k_size) * s.groups;
        Store(to + chunk * V, total, lanes);
      }
    }
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace nasjax

namespace ffi = xla::ffi;
using nasjax::F32, nasjax::S32, nasjax::U32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    nasjax_conv_forward, nasjax::Forward,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<F32>().Arg<F32>().Arg<F32>().Arg<S32>().Arg<S32>().Arg<U32>()
        .Ret<F32>()
        .Attr<float>("cap")
        .Attr<float>("scale")
        .Attr<uint32_t>("threshold")
        .Attr<uint32_t>("site"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    nasjax_conv_backward, nasjax::Backward,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<F32>().Arg<F32>().Arg<S32>().Arg<S32>().Arg<F32>().Arg<F32>()
        .Ret<F32>().Ret<F32>().Ret<F32>()
        .Attr<float>("cap")
        .Attr<float>("scale"));
