// The sums over all paths of CTC-CRF, for CPUs.
//
// XLA's loops over frames run on one core, and between its products each pass
// over the masses is a loop of its own. Here a group of utterances, one to a
// lane of a vector, goes through all frames on one core, and other groups on
// others. What is computed is told in nasjax/losses/ctc_crf.py.

#include <cmath>
#include <limits>
#include <vector>

#include "common.h"

namespace nasjax {
namespace {

constexpr int kBlock = 12;  // sums that stay in registers

inline Vec Inverse(Vec x) {
  const Vec zero = {};
  return x == zero ? zero : 1 / x;
}

// Backward variables are inverses of forward ones, which may vanish.
inline Vec Bounded(Vec x) {
  const Vec largest = Vec{} + 1e30f;
  return x > largest ? largest : x;
}

// sums[r] = sum over i of a[r * row + i * step] * x[i], for R rows.
template <int R>
inline void Rows(const float* a, int64_t row, int64_t step, const Vec* x,
                 int64_t n, Vec* sums) {
  Vec sum[R] = {};
  for (int64_t i = 0; i < n; ++i) {
    const Vec v = x[i];
    for (int r = 0; r < R; ++r) sum[r] += a[r * row + i * step] * v;
  }
  for (int r = 0; r < R; ++r) sums[r] = sum[r];
}

inline void Multiply(const float* a, int64_t row, int64_t step, const Vec* x,
                     int64_t n, int64_t rows, Vec* sums) {
  int64_t r = 0;
  for (; r + kBlock <= rows; r += kBlock) {
    Rows<kBlock>(a + r * row, row, step, x, n, sums + r);
  }
  for (; r + 4 <= rows; r += 4) Rows<4>(a + r * row, row, step, x, n, sums + r);
  for (; r < rows; ++r) Rows<1>(a + r * row, row, step, x, n, sums + r);
}

// State w K + v: the last label is w, the one before it v.
struct Trigram {
  int64_t K;
  const float *arc_vwu, *repeat_vu, *end_vu;

  int64_t states() const { return K * K; }
  int64_t label(int64_t s) const { return s / K; }
  float end(int64_t s) const { return end_vu[s]; }
  float start(int64_t s) const { return s == 0; }

  void Arrive(Vec* all, const Vec* blank, Vec* fresh, Vec* rows) const {
    for (int64_t v = 0; v < K; ++v) fresh[v] = Vec{};
    for (int64_t v = 0; v < K; ++v) {
      const float* arc = arc_vwu + v * K * K;
      Multiply(arc + K, K, 1, all + v * K, K, K - 1, rows);
      for (int64_t w = 1; w < K; ++w) fresh[w * K + v] = rows[w - 1];
      if (v == 0) continue;
      Rows<1>(repeat_vu + v * K, 0, 1, blank + v * K, K, fresh + v * K + v);
    }
  }

  void Depart(const Vec* ahead, Vec* fresh, Vec* repeat, Vec* rows) const {
    for (int64_t v = 0; v < K; ++v) {
      for (int64_t w = 0; w < K; ++w) rows[w] = ahead[w * K + v];
      Multiply(arc_vwu + v * K * K, 1, K, rows, K, K, fresh + v * K);
      const Vec same = rows[v];
      for (int64_t u = 0; u < K; ++u) {
        repeat[v * K + u] = repeat_vu[v * K + u] * same;
      }
    }
  }
};

// A sparse matrix; its entries are sorted by rows.
struct Entries {
  int64_t count;
  const int32_t *row, *column;
  const float* weight;

  void Add(const Vec* x, Vec* y) const {
    for (int64_t a = 0; a < count;) {
      const int32_t r = row[a];
      Vec sum = y[r];
      for (; a < count && row[a] == r; ++a) sum += weight[a] * x[column[a]];
      y[r] = sum;
    }
  }

  void AddTransposed(const Vec* x, Vec* y) const {
    for (int64_t a = 0; a < count; ++a) y[column[a]] += weight[a] * x[row[a]];
  }
};

struct Sparse {
  int64_t S;
  Entries escape, arcs, repeats;
  const int32_t* label_s;
  const float *end_s, *start_s;

  int64_t states() const { return S; }
  int64_t label(int64_t s) const { return label_s[s]; }
  float end(int64_t s) const { return end_s[s]; }
  float start(int64_t s) const { return start_s[s]; }

  void Arrive(Vec* all, const Vec* blank, Vec* fresh, Vec* scratch) const {
    if (escape.count) {
      std::copy(all, all + S, scratch);
      escape.Add(scratch, all);
    }
    std::fill(fresh, fresh + S, Vec{});
    arcs.Add(all, fresh);
    repeats.Add(blank, fresh);
  }

  void Depart(const Vec* ahead, Vec* fresh, Vec* repeat, Vec* scratch) const {
    std::fill(fresh, fresh + S, Vec{});
    std::fill(repeat, repeat + S, Vec{});
    arcs.AddTransposed(ahead, fresh);
    repeats.AddTransposed(ahead, repeat);
    if (escape.count) {
      std::copy(fresh, fresh + S, scratch);
      escape.AddTransposed(scratch, fresh);
    }
  }
};

// The utterances of one group, by frames.
template <typename Graph>
class Group {
 public:
  Group(const Graph& graph, int64_t K, int64_t frames)
      : graph_(graph), K_(K), S_(graph.states()), frames_(frames),
        chunk_(std::max<int64_t>(1, std::sqrt(static_cast<double>(frames)))),
        q_(frames * K), total_(frames), all_(S_), fresh_(S_), repeat_(S_),
        scratch_(std::max(S_, K)) {}

  Vec* q() { return q_.data(); }

  // Fills log_z, and where asked for every frame's probabilities of symbols
  // (occupancy, as q).
  void Run(double* log_z, Vec* occupancy) {
    const int64_t chunks = (frames_ + chunk_ - 1) / chunk_;
    // Masses, n and then b, before each chunk, and after each frame of one.
    std::vector<Vec> before(occupancy ? 2 * S_ * chunks : 0);
    std::vector<Vec> masses(2 * S_), after(occupancy ? 2 * S_ * chunk_ : 0);
    for (int64_t s = 0; s < S_; ++s) masses[S_ + s] = Vec{} + graph_.start(s);
    std::fill(log_z, log_z + V, 0.0);
    for (int64_t t = 0; t < frames_; ++t) {
      if (occupancy && t % chunk_ == 0) {
        std::copy(masses.begin(), masses.end(),
                  before.begin() + 2 * S_ * (t / chunk_));
      }
      Step(t, masses.data(), masses.data());
      for (int l = 0; l < V; ++l) {
        log_z[l] += std::log(static_cast<double>(total_[t][l]));
      }
    }
    Vec final = {};
    for (int64_t s = 0; s < S_; ++s) {
      final += graph_.end(s) * (masses[s] + masses[S_ + s]);
    }
    for (int l = 0; l < V; ++l) {
      log_z[l] += std::log(static_cast<double>(final[l]));
    }
    if (!occupancy) return;
    // What lies ahead of the masses, in their place.
    for (int64_t s = 0; s < S_; ++s) {
      masses[s] = masses[S_ + s] = graph_.end(s) * Inverse(final);
    }
    for (int64_t c = chunks - 1; c >= 0; --c) {
      const int64_t begin = c * chunk_;
      const int64_t end = std::min(frames_, begin + chunk_);
      const Vec* from = before.data() + 2 * S_ * c;
      for (int64_t t = begin; t < end; ++t) {
        Vec* to = after.data() + 2 * S_ * (t - begin);
        Step(t, from, to);
        from = to;
      }
      for (int64_t t = end - 1; t >= begin; --t) {
        StepBack(t, after.data() + 2 * S_ * (t - begin), masses.data(),
                 occupancy + t * K_);
      }
    }
  }

 private:
  void Step(int64_t t, const Vec* from, Vec* to) {
    const Vec* q = q_.data() + t * K_;
    Vec total = {};
    for (int64_t s = 0; s < S_; ++s) {
      all_[s] = from[s] + from[S_ + s];
      total += all_[s];
    }
    total_[t] = total;
    const Vec scale = Inverse(total);
    // Arrive may add to all_, and the old masses may be where the new ones go.
    for (int64_t s = 0; s < S_; ++s) repeat_[s] = q[0] * scale * all_[s];
    graph_.Arrive(all_.data(), from + S_, fresh_.data(), scratch_.data());
    for (int64_t s = 0; s < S_; ++s) {
      to[s] = q[graph_.label(s)] * scale * (from[s] + fresh_[s]);
      to[S_ + s] = repeat_[s];
    }
  }

  void StepBack(int64_t t, const Vec* masses, Vec* ahead, Vec* occupancy) {
    const Vec* q = q_.data() + t * K_;
    const Vec scale = Inverse(total_[t]);
    std::fill(occupancy, occupancy + K_, Vec{});
    Vec blank = {};
    for (int64_t s = 0; s < S_; ++s) {
      const int64_t label = graph_.label(s);
      occupancy[label] += masses[s] * ahead[s];
      blank += masses[S_ + s] * ahead[S_ + s];
      all_[s] = q[label] * scale * ahead[s];
    }
    occupancy[0] += blank;
    Vec sum = {};
    for (int64_t k = 0; k < K_; ++k) sum += occupancy[k];
    sum = Inverse(sum);
    for (int64_t k = 0; k < K_; ++k) occupancy[k] *= sum;
    graph_.Depart(all_.data(), fresh_.data(), repeat_.data(), scratch_.data());
    for (int64_t s = 0; s < S_; ++s) {
      const Vec fresh = fresh_[s] + q[0] * scale * ahead[S_ + s];
      ahead[s] = Bounded(fresh + all_[s]);
      ahead[S_ + s] = Bounded(fresh + repeat_[s]);
    }
  }

  const Graph& graph_;
  const int64_t K_, S_, frames_, chunk_;
  std::vector<Vec> q_, total_, all_, fresh_, repeat_, scratch_;
};

// Runs all utterances: q_btk are probabilities, log_z_b and occupancy_btk
// results; the latter may have no frames, and is not computed then.
template <typename Graph>
ffi::Error RunAll(ffi::ThreadPool pool, const Graph& graph, F32 q_btk,
                  S32 len_b, ffi::Result<F32> log_z_b,
                  ffi::Result<F32> occupancy_btk) {
  const auto shape = q_btk.dimensions();
  const int64_t T = shape[shape.size() - 2], K = shape[shape.size() - 1];
  const int64_t rows = log_z_b->element_count();
  const int64_t lens = len_b.element_count();
  if (static_cast<int64_t>(q_btk.element_count()) != rows * T * K || !lens ||
      rows % lens) {
    return ffi::Error::InvalidArgument("crf: sizes of scores and lengths");
  }
  const bool wanted = occupancy_btk->element_count() > 0;
  ParallelFor(pool, (rows + V - 1) / V, [&](int64_t group) {
    const int64_t first = group * V;
    const int lanes = std::min<int64_t>(V, rows - first);
    int64_t frames = 0;
    for (int l = 0; l < lanes; ++l) {
      const int64_t len = len_b.typed_data()[(first + l) % lens];
      frames = std::max(frames, std::min(T, std::max<int64_t>(0, len)));
    }
    Group<Graph> run(graph, K, frames);
    for (int64_t at = 0; at < frames * K; ++at) {
      Vec q = Vec{} + (at % K == 0 ? 1.0f : 0.0f);
      for (int l = 0; l < lanes; ++l) {
        q[l] = q_btk.typed_data()[(first + l) * T * K + at];
      }
      run.q()[at] = q;
    }
    std::vector<Vec> occupancy(wanted ? frames * K : 0);
    double log_z[V];
    run.Run(log_z, wanted ? occupancy.data() : nullptr);
    for (int l = 0; l < lanes; ++l) {
      log_z_b->typed_data()[first + l] = static_cast<float>(log_z[l]);
      if (!wanted) continue;
      float* to = occupancy_btk->typed_data() + (first + l) * T * K;
      for (int64_t at = 0; at < frames * K; ++at) to[at] = occupancy[at][l];
      std::fill(to + frames * K, to + T * K, 0.0f);
    }
  });
  return ffi::Error::Success();
}

ffi::Error RunTrigram(ffi::ThreadPool pool, F32 q_btk, S32 len_b, F32 arc_vwu,
                      F32 repeat_vu, F32 end_vu, ffi::Result<F32> log_z_b,
                      ffi::Result<F32> occupancy_btk) {
  const int64_t K = q_btk.dimensions().back();
  if (static_cast<int64_t>(arc_vwu.element_count()) != K * K * K ||
      static_cast<int64_t>(repeat_vu.element_count()) != K * K ||
      static_cast<int64_t>(end_vu.element_count()) != K * K) {
    return ffi::Error::InvalidArgument("crf: sizes of the trigram");
  }
  const Trigram graph{K, arc_vwu.typed_data(), repeat_vu.typed_data(),
                      end_vu.typed_data()};
  return RunAll(pool, graph, q_btk, len_b, log_z_b, occupancy_btk);
}

bool IsMatrix(S32 row, S32 column, F32 weight, int64_t states) {
  const int64_t count = row.element_count();
  if (static_cast<int64_t>(column.element_count()) != count ||
      static_cast<int64_t>(weight.element_count()) != count) {
    return false;
  }
  for (int64_t a = 0; a < count; ++a) {
    const int32_t r = row.typed_data()[a], c = column.typed_data()[a];
    if (r < 0 || r >= states || c < 0 || c >= states) return false;
  }
  return true;
}

ffi::Error RunSparse(ffi::ThreadPool pool, F32 q_btk, S32 len_b,
                     S32 escape_row, S32 escape_column, F32 escape_weight,
                     S32 arc_row, S32 arc_column, F32 arc_weight,
                     S32 repeat_row, S32 repeat_column, F32 repeat_weight,
                     S32 label_s, F32 end_s, F32 start_s,
                     ffi::Result<F32> log_z_b,
                     ffi::Result<F32> occupancy_btk) {
  const int64_t states = label_s.element_count();
  const int64_t K = q_btk.dimensions().back();
  bool good = static_cast<int64_t>(end_s.element_count()) == states &&
              static_cast<int64_t>(start_s.element_count()) == states &&
              IsMatrix(escape_row, escape_column, escape_weight, states) &&
              IsMatrix(arc_row, arc_column, arc_weight, states) &&
              IsMatrix(repeat_row, repeat_column, repeat_weight, states);
  for (int64_t s = 0; good && s < states; ++s) {
    good = label_s.typed_data()[s] >= 0 && label_s.typed_data()[s] < K;
  }
  if (!good) {
    return ffi::Error::InvalidArgument("crf: sizes of the sparse model");
  }
  const auto entries = [](S32& row, S32& column, F32& weight) {
    return Entries{static_cast<int64_t>(row.element_count()), row.typed_data(),
                   column.typed_data(), weight.typed_data()};
  };
  const Sparse graph{states,
                     entries(escape_row, escape_column, escape_weight),
                     entries(arc_row, arc_column, arc_weight),
                     entries(repeat_row, repeat_column, repeat_weight),
                     label_s.typed_data(),
                     end_s.typed_data(),
                     start_s.typed_data()};
  return RunAll(pool, graph, q_btk, len_b, log_z_b, occupancy_btk);
}

}  // namespace
}  // namespace nasjax

namespace ffi = xla::ffi;

XLA_FFI_DEFINE_HANDLER_SYMBOL(nasjax_crf_trigram, nasjax::RunTrigram,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<nasjax::F32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::F32>()
                                  .Arg<nasjax::F32>()
                                  .Arg<nasjax::F32>()
                                  .Ret<nasjax::F32>()
                                  .Ret<nasjax::F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(nasjax_crf_sparse, nasjax::RunSparse,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<nasjax::F32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::F32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::F32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::F32>()
                                  .Arg<nasjax::S32>()
                                  .Arg<nasjax::F32>()
                                  .Arg<nasjax::F32>()
                                  .Ret<nasjax::F32>()
                                  .Ret<nasjax::F32>());
