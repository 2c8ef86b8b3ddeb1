// Layer normalisation over the last axis, for CPUs.
//
// This only moves memory: XLA walks several times over the frames in either
// direction, these kernels once. A few frames at a time are read into the
// nearest cache, and whatever needs them again finds them there.
//
// Sums over frames are cut in parts of a fixed number, so that results do not
// depend on the number of threads.

#include <cmath>
#include <vector>

#include "common.h"

namespace nasjax {
namespace {

typedef int32_t Ints __attribute__((vector_size(4 * V)));

// Frames of one member are cut in at most so many parts.
constexpr int64_t kParts = 16;
// Frames that are worked on together: enough for sums to overlap in time.
constexpr int kTogether = 4;

struct Sizes {
  int64_t members, rows, width;
  int64_t parts() const { return std::min(kParts, rows); }
  int64_t first(int64_t part) const { return rows * part / parts(); }
  // Of a sum over frames, in whole vectors.
  int64_t padded() const { return (width + V - 1) / V * V; }
};

// A whole vector of a frame.
struct Whole {
  Vec Read(const float* from) const { return Load(from); }
  void Write(float* to, Vec v) const { Store(to, v); }
  Vec Keep(Vec v) const { return v; }
};

// The last elements of a frame, fewer than a vector. Where the frame is longer
// than that, the vector that ends with it is read and written, and `Keep`
// zeroes the elements that the one before has, too.
struct Tail {
  int64_t width;
  int lanes;  // How many; 0 where whole vectors make up the frame.
  Ints kept;
  explicit Tail(int64_t width)
      : width(width), lanes(static_cast<int>(width % V)) {
    for (int v = 0; v < V; ++v) {
      kept[v] = (width < V ? v < lanes : v >= V - lanes) ? -1 : 0;
    }
  }
  int64_t at() const { return width < V ? 0 : width - V; }
  Vec Read(const float* from) const {
    return width < V ? Load(from, lanes) : Load(from);
  }
  void Write(float* to, Vec v) const {
    return width < V ? Store(to, v, lanes) : Store(to, v);
  }
  Vec Keep(Vec v) const { return kept ? v : Vec{}; }
};

// Calls body(piece, at, slot) for the vectors of a frame: `at` in the frame,
// and in a padded sum at `slot`.
template <typename Body>
inline void Along(const Tail& tail, const Body& body) {
  int64_t at = 0;
  for (; at + V <= tail.width; at += V) body(Whole{}, at, at);
  if (tail.lanes) body(tail, tail.at(), at);
}

inline float Total(Vec v) {
  typedef float Four __attribute__((vector_size(16)));
  Four parts[V / 4], sum = {};
  std::memcpy(parts, &v, sizeof v);
#pragma GCC unroll 4
  for (int n = 0; n < V / 4; ++n) sum += parts[n];
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// Normalises R frames.
template <int R>
void Normalise(const Tail& tail, const float* x, const float* scale,
               const float* bias, float epsilon, float* y, float* mean,
               float* rstd) {
  const float width = tail.width;
  Vec sum[R] = {}, square[R] = {};
  Along(tail, [&](const auto& piece, int64_t at, int64_t) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      sum[r] += piece.Keep(piece.Read(x + r * tail.width + at));
    }
  });
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) mean[r] = Total(sum[r]) / width;
  Vec m[R], s[R];
  for (int r = 0; r < R; ++r) m[r] = Vec{} + mean[r];
  Along(tail, [&](const auto& piece, int64_t at, int64_t) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      Vec d = piece.Keep(piece.Read(x + r * tail.width + at) - m[r]);
      square[r] += d * d;
    }
  });
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    rstd[r] = 1.0f / std::sqrt(Total(square[r]) / width + epsilon);
    s[r] = Vec{} + rstd[r];
  }
  Along(tail, [&](const auto& piece, int64_t at, int64_t) {
    Vec by = piece.Read(scale + at), plus = piece.Read(bias + at);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      int64_t here = r * tail.width + at;
      Vec normal = (piece.Read(x + here) - m[r]) * s[r];
      piece.Write(y + here, normal * by + plus);
    }
  });
}

// The gradient of R frames; adds to the padded dscale and dbias, where a last
// vector sums all that it reads, kept or not.
template <int R>
void Gradient(const Tail& tail, const float* x, const float* scale,
              const float* mean, const float* rstd, const float* dy, float* dx,
              float* dscale, float* dbias) {
  const float width = tail.width;
  Vec m[R], s[R], sum[R] = {}, product[R] = {};
  for (int r = 0; r < R; ++r) {
    m[r] = Vec{} + mean[r];
    s[r] = Vec{} + rstd[r];
  }
  Along(tail, [&](const auto& piece, int64_t at, int64_t slot) {
    Vec by = piece.Read(scale + at);
    Vec ds = Load(dscale + slot), db = Load(dbias + slot);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      int64_t here = r * tail.width + at;
      Vec g = piece.Read(dy + here);
      Vec both = g * ((piece.Read(x + here) - m[r]) * s[r]);
      db += g;
      ds += both;
      sum[r] += piece.Keep(g * by);
      product[r] += piece.Keep(both * by);
    }
    Store(dscale + slot, ds);
    Store(dbias + slot, db);
  });
  Vec a[R], b[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    a[r] = Vec{} + Total(sum[r]) / width;
    b[r] = Vec{} + Total(product[r]) / width;
  }
  Along(tail, [&](const auto& piece, int64_t at, int64_t) {
    Vec by = piece.Read(scale + at);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      int64_t here = r * tail.width + at;
      Vec normal = (piece.Read(x + here) - m[r]) * s[r];
      Vec g = piece.Read(dy + here) * by;
      // Rounded as in the mean, not fused with the difference: one channel
      // alone has gradient zero, which rstd would blow up from the rest.
      Pin(g);
      piece.Write(dx + here, (g - a[r] - normal * b[r]) * s[r]);
    }
  });
}

// Members are the leading dimensions that scale has, too.
ffi::Error SizesOf(const F32& x, const F32& scale, Sizes* s) {
  auto xd = x.dimensions(), sd = scale.dimensions();
  if (sd.size() < 1 || xd.size() < sd.size()) {
    return ffi::Error::InvalidArgument("norm: ranks of input and scale");
  }
  *s = {1, 1, xd[xd.size() - 1]};
  bool fits = sd[sd.size() - 1] == s->width;
  for (size_t d = 0; d + 1 < xd.size(); ++d) {
    if (d + 1 < sd.size()) {
      fits = fits && xd[d] == sd[d];
      s->members *= xd[d];
    } else {
      s->rows *= xd[d];
    }
  }
  if (!fits) {
    return ffi::Error::InvalidArgument("norm: sizes of input and scale");
  }
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, F32 x, F32 scale, F32 bias,
                   ffi::Result<F32> out, ffi::Result<F32> mean,
                   ffi::Result<F32> rstd, float epsilon) {
  Sizes s;
  if (auto error = SizesOf(x, scale, &s); error.failure()) return error;
  if (bias.element_count() != scale.element_count()) {
    return ffi::Error::InvalidArgument("norm: sizes of scale and bias");
  }
  const float *xp = x.typed_data(), *sp = scale.typed_data(),
              *bp = bias.typed_data();
  float *yp = out->typed_data(), *mp = mean->typed_data(),
        *rp = rstd->typed_data();
  ParallelFor(pool, s.members * s.parts(), [=](int64_t task) {
    int64_t p = task / s.parts(), part = task % s.parts();
    const Tail tail(s.width);
    int64_t row = p * s.rows + s.first(part);
    const int64_t end = p * s.rows + s.first(part + 1);
    auto work = [&](auto count) {
      constexpr int R = decltype(count)::value;
      for (; row + R <= end; row += R) {
        Normalise<R>(tail, xp + row * s.width, sp + p * s.width,
                     bp + p * s.width, epsilon, yp + row * s.width, mp + row,
                     rp + row);
      }
    };
    work(std::integral_constant<int, kTogether>());
    work(std::integral_constant<int, 1>());
  });
  return ffi::Error::Success();
}

ffi::Error Backward(ffi::ThreadPool pool, F32 x, F32 scale, F32 mean, F32 rstd,
                    F32 dout, ffi::Result<F32> dx, ffi::Result<F32> dscale,
                    ffi::Result<F32> dbias) {
  Sizes s;
  if (auto error = SizesOf(x, scale, &s); error.failure()) return error;
  const float *xp = x.typed_data(), *sp = scale.typed_data(),
              *mp = mean.typed_data(), *rp = rstd.typed_data(),
              *gp = dout.typed_data();
  float* dxp = dx->typed_data();
  std::vector<float> partial(s.members * s.parts() * 2 * s.padded());
  float* sums = partial.data();
  ParallelFor(pool, s.members * s.parts(), [=](int64_t task) {
    int64_t p = task / s.parts(), part = task % s.parts();
    const Tail tail(s.width);
    float* ds = sums + task * 2 * s.padded();
    int64_t row = p * s.rows + s.first(part);
    const int64_t end = p * s.rows + s.first(part + 1);
    auto work = [&](auto count) {
      constexpr int R = decltype(count)::value;
      for (; row + R <= end; row += R) {
        Gradient<R>(tail, xp + row * s.width, sp + p * s.width, mp + row,
                    rp + row, gp + row * s.width, dxp + row * s.width, ds,
                    ds + s.padded());
      }
    };
    work(std::integral_constant<int, kTogether>());
    work(std::integral_constant<int, 1>());
  });
  const Tail tail(s.width);
  for (int64_t n = 0; n < 2 * s.members; ++n) {
    const float* from = sums + (n / 2 * s.parts() * 2 + n % 2) * s.padded();
    float* to = (n % 2 ? dbias : dscale)->typed_data() + n / 2 * s.width;
    Along(tail, [&](const auto& piece, int64_t at, int64_t slot) {
      Vec sum = {};
      for (int64_t part = 0; part < s.parts(); ++part) {
        sum += Load(from + part * 2 * s.padded() + slot);
      }
      piece.Write(to + at, sum);
    });
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace nasjax

namespace ffi = xla::ffi;
using nasjax::F32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    nasjax_norm_forward, nasjax::Forward,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<F32>().Arg<F32>().Arg<F32>()
        .Ret<F32>().Ret<F32>().Ret<F32>()
        .Attr<float>("epsilon"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    nasjax_norm_backward, nasjax::Backward,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<F32>().Arg<F32>().Arg<F32>().Arg<F32>().Arg<F32>()
        .Ret<F32>().Ret<F32>().Ret<F32>());
