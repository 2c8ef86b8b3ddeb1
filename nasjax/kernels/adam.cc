// Clipping by the global norm, and Adam, for CPUs.
//
// Both only move memory: XLA walks ten times over arrays of the size of the
// weights, these kernels eight times (once for the norm, and seven).
//
// The sum of squares is cut in blocks of a fixed size, so that it does not
// depend on the number of threads.

#include <cmath>
#include <vector>

#include "common.h"

namespace nasjax {
namespace {

constexpr int64_t kBlock = 1 << 14;

// A stretch of one member's share of one leaf.
struct Block {
  int64_t leaf, member, start, size;
};

std::vector<Block> Cut(const std::vector<int64_t>& sizes, int64_t members) {
  std::vector<Block> blocks;
  for (int64_t p = 0; p < members; ++p) {
    for (int64_t n = 0; n < static_cast<int64_t>(sizes.size()); ++n) {
      for (int64_t at = 0; at < sizes[n]; at += kBlock) {
        int64_t size = std::min(kBlock, sizes[n] - at);
        blocks.push_back({n, p, p * sizes[n] + at, size});
      }
    }
  }
  return blocks;
}

double SumOfSquares(const float* x, int64_t n) {
  Vec sum[4] = {};
  int64_t at = 0;
  for (; at + 4 * V <= n; at += 4 * V) {
    for (int a = 0; a < 4; ++a) {
      Vec v = Load(x + at + a * V);
      sum[a] += v * v;
    }
  }
  double total = 0;
  for (; at < n; ++at) total += static_cast<double>(x[at]) * x[at];
  Vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (int v = 0; v < V; ++v) total += all[v];
  return total;
}

// 1 - b2 would lose digits in single precision: both are given.
struct Numbers {
  float b1, b2, c1, c2, epsilon;
};

// What one member's update takes: `scale` of the gradient, learning rate, and
// the corrections of both moments.
struct Step {
  float scale, lr, fix1, fix2;
};

void Update(const Numbers& n, const Step& s, const float* g, const float* p,
            const float* m, const float* v, float* p_out, float* m_out,
            float* v_out, int64_t size) {
  // In place, results and arguments are the same arrays, element by element.
#pragma GCC ivdep
  for (int64_t i = 0; i < size; ++i) {
    float grad = g[i] * s.scale;
    float first = n.b1 * m[i] + n.c1 * grad;
    float second = n.b2 * v[i] + n.c2 * (grad * grad);
    m_out[i] = first;
    v_out[i] = second;
    p_out[i] = p[i] - s.lr * (first * s.fix1 /
                              (std::sqrt(second * s.fix2) + n.epsilon));
  }
}

// Arguments: how_p4 [members.., 4] (1 to go on or 0, learning rate, and the
// factors that correct the moments), then all gradients, parameters, first and
// second moments. Results: the norm of each member's gradient, then parameters
// and moments. A member that should not go on, or whose norm is not finite,
// stays as it is.
ffi::Error Adam(ffi::ThreadPool pool, F32 how_p4, ffi::RemainingArgs args,
                ffi::Result<F32> norm_p, ffi::RemainingRets rets, float clip,
                float b1, float b2, float c1, float c2,
                float epsilon) {
  const int64_t members = norm_p->element_count();
  if (members == 0) {
    return ffi::Error::InvalidArgument("adam: there are no members");
  }
  if (static_cast<int64_t>(how_p4.element_count()) != 4 * members) {
    return ffi::Error::InvalidArgument("adam: size of how_p4");
  }
  const int64_t leaves = args.size() / 4;
  if (args.size() % 4 || static_cast<int64_t>(rets.size()) != 3 * leaves) {
    return ffi::Error::InvalidArgument("adam: numbers of leaves");
  }
  std::vector<int64_t> sizes(leaves);
  std::vector<const float*> in(4 * leaves);
  std::vector<float*> out(3 * leaves);
  for (int64_t n = 0; n < 4 * leaves; ++n) {
    auto arg = args.get<F32>(n);
    if (!arg.has_value()) return arg.error();
    in[n] = arg->typed_data();
    const int64_t count = arg->element_count();
    if (n < leaves) sizes[n] = count / members;
    if (count != members * sizes[n % leaves]) {
      return ffi::Error::InvalidArgument("adam: sizes of leaves");
    }
  }
  for (int64_t n = 0; n < 3 * leaves; ++n) {
    auto ret = rets.get<F32>(n);
    if (!ret.has_value()) return ret.error();
    out[n] = (*ret)->typed_data();
    if (static_cast<int64_t>((*ret)->element_count()) !=
        members * sizes[n % leaves]) {
      return ffi::Error::InvalidArgument("adam: sizes of results");
    }
  }
  const std::vector<Block> blocks = Cut(sizes, members);
  std::vector<double> squares(blocks.size());
  ParallelFor(pool, blocks.size(), [&](int64_t b) {
    squares[b] =
        SumOfSquares(in[blocks[b].leaf] + blocks[b].start, blocks[b].size);
  });
  std::vector<double> total(members);
  for (size_t b = 0; b < blocks.size(); ++b) {
    total[blocks[b].member] += squares[b];
  }
  std::vector<Step> steps(members);
  std::vector<char> goes_on(members);
  for (int64_t p = 0; p < members; ++p) {
    const float* how = how_p4.typed_data() + 4 * p;
    float norm = static_cast<float>(std::sqrt(total[p]));
    norm_p->typed_data()[p] = norm;
    goes_on[p] = how[0] != 0 && std::isfinite(norm);
    steps[p] = {norm < clip ? 1 : clip / norm, how[1], how[2], how[3]};
  }
  const Numbers numbers{b1, b2, c1, c2, epsilon};
  ParallelFor(pool, blocks.size(), [&](int64_t b) {
    const auto& [leaf, member, start, size] = blocks[b];
    const float* from[4];
    float* to[3];
    for (int a = 0; a < 4; ++a) from[a] = in[a * leaves + leaf] + start;
    for (int a = 0; a < 3; ++a) to[a] = out[a * leaves + leaf] + start;
    if (goes_on[member]) {
      Update(numbers, steps[member], from[0], from[1], from[2], from[3], to[0],
             to[1], to[2], size);
      return;
    }
    for (int a = 0; a < 3; ++a) {
      if (to[a] != from[a + 1]) std::memcpy(to[a], from[a + 1], 4 * size);
    }
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace nasjax

namespace ffi = xla::ffi;

XLA_FFI_DEFINE_HANDLER_SYMBOL(nasjax_adam, nasjax::Adam,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<nasjax::F32>()
                                  .RemainingArgs()
                                  .Ret<nasjax::F32>()
                                  .RemainingRets()
                                  .Attr<float>("clip")
                                  .Attr<float>("b1")
                                  .Attr<float>("b2")
                                  .Attr<float>("c1")
                                  .Attr<float>("c2")
                                  .Attr<float>("epsilon"));
