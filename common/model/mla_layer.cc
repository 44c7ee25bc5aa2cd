// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), absorbed: with c the normalised latent of kv_lora_rank
// numbers,
//   score(t, s) = <q_nope[h] W_uk[h], c_s> + <rope(q_rope[h]), rope(k_rope_s)>,      o[h] = (sum_s p_s c_s) W_uv[h]^T,
// where kv_b_proj's rows hold, per head, W_uk [nope, r] and then W_uv [v, r]. The cache keeps [c, rope(k_rope)] per
// token, for all heads.
//
// The gradient is taken of the same function as it reads unabsorbed, whose heads are narrower (192 and 128 numbers at
// DeepSeek's widths, against 576 and 512):
//   k_s[h] = [c_s W_uk[h]^T, rope(k_rope_s)],  v_s[h] = c_s W_uv[h]^T,
//   score(t, s) = <[q_nope[h], rope(q_rope[h])], k_s[h]>,  o[h] = sum_s p_s v_s[h].
// Scores that are made again lack the forward's rounding of the absorbed query and have that of k instead; p is theirs
// over the forward's log-sum-exp.
#include "common/model/expanded_kv.h"
#include "common/model/layers.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "kernels/rms_norm.h"

namespace grouper {
namespace {

// DeepSeek's code gives the latents' norms their class's default, whatever rms_norm_eps says.
constexpr double kLatentEps = 1e-6;

class MlaLayer : public AttentionLayer {
 public:
  MlaLayer(const ModelConfig& config, const std::string& prefix, const kernels::RopeTable& rope, WeightStore& store)
      : rope_(rope),
        heads_(config.num_attention_heads),
        q_rank_(config.mla->q_lora_rank),
        rank_(config.mla->kv_lora_rank),
        nope_(config.mla->qk_nope_head_dim),
        turn_(config.mla->qk_rope_head_dim),
        value_(config.mla->v_head_dim),
        scale_(config.AttentionScale()) {
    const int64_t q_rows = heads_ * (nope_ + turn_);
    const WeightStore::Part latent{prefix + "kv_a_proj_with_mqa.weight", rank_ + turn_};
    if (q_rank_ > 0) {
      first_ = store.AddMatrix({{prefix + "q_a_proj.weight", q_rank_}, latent}, config.hidden_size);
      q_norm_ = store.AddVector({{prefix + "q_a_layernorm.weight", q_rank_}});
      q_b_ = store.AddMatrix({{prefix + "q_b_proj.weight", q_rows}}, q_rank_);
    } else {
      first_ = store.AddMatrix({{prefix + "q_proj.weight", q_rows}, latent}, config.hidden_size);
    }
    kv_norm_ = store.AddVector({{prefix + "kv_a_layernorm.weight", rank_}});
    kv_b_ = store.AddMatrix({{prefix + "kv_b_proj.weight", heads_ * (nope_ + value_)}}, rank_, store.dtype(),
                            /*packed=*/false);
    o_ = store.AddMatrix({{prefix + "o_proj.weight", config.hidden_size}}, heads_ * value_);
    if (config.attention_bias) {  // q_proj has none
      const WeightStore::Part q_bias =
          q_rank_ > 0 ? WeightStore::Part{prefix + "q_a_proj.bias", q_rank_} : WeightStore::Part{"", q_rows};
      first_bias_ = store.AddVector({q_bias, {prefix + "kv_a_proj_with_mqa.bias", rank_ + turn_}});
    }
    if (config.o_bias) o_bias_ = store.AddVector({{prefix + "o_proj.bias", config.hidden_size}});
  }

  void Forward(Pass& pass, int64_t layer, const Tensor& y, const Tensor& delta, AttentionSaved* saved) const override {
    Stream& stream = pass.stream;
    const int64_t t = pass.tokens, q_first = q_rank_ > 0 ? q_rank_ : heads_ * (nope_ + turn_);
    const DType dtype = y.dtype(), acc = AccumulatorType(dtype);
    AttentionSaved local;
    AttentionSaved& s = saved != nullptr ? *saved : local;
    auto statistic = [&](std::initializer_list<int64_t> shape) {
      return saved != nullptr ? pass.arena.New(acc, shape) : Tensor();
    };

    s.qkv = pass.arena.New(dtype, {t, q_first + rank_ + turn_});
    kernels::Linear(stream, y, first_->value, &first_->packed, ValueOf(first_bias_), s.qkv);
    if (q_rank_ > 0) {
      s.q_latent = pass.arena.New(dtype, {t, q_rank_});
      s.q_latent_rstd = statistic({t});
      kernels::RmsNorm(stream, s.qkv.Columns(0, q_rank_), q_norm_->value, kLatentEps, s.q_latent, s.q_latent_rstd);
      const Tensor q = pass.arena.New(dtype, {t, heads_ * (nope_ + turn_)});
      kernels::Linear(stream, s.q_latent, q_b_->value, &q_b_->packed, {}, q);
      s.q = q.Reshape({t, heads_, nope_ + turn_});
    } else {
      s.q = s.qkv.Columns(0, q_first).Reshape({t, heads_, nope_ + turn_});
    }

    // key = [norm(latent), rope(k_rope)]
    s.key = pass.arena.New(dtype, {t, 1, rank_ + turn_});
    s.kv_rstd = statistic({t});
    const Tensor key_rows = s.key.Reshape({t, rank_ + turn_});
    kernels::RmsNorm(stream, s.qkv.Columns(q_first, q_first + rank_), kv_norm_->value, kLatentEps,
                     key_rows.Columns(0, rank_), s.kv_rstd);
    kernels::Rope(stream, s.qkv.Columns(q_first + rank_, q_first + rank_ + turn_).Reshape({t, 1, turn_}), pass.positions, rope_, false,
                  s.key.Columns(rank_, rank_ + turn_));
    s.lse = statistic({t, heads_});
    s.o = pass.arena.New(dtype, {t, heads_, value_});
    const Arena::Mark mark = pass.arena.mark();

    // query[h] = [q_nope[h] W_uk[h], rope(q_rope[h])]
    const Tensor query = pass.arena.New(dtype, {t, heads_, rank_ + turn_});
    kernels::Gemm(stream, {.batch = heads_,
                           .m = t,
                           .n = rank_,
                           .k = nope_,
                           .a = Heads(s.q),
                           .b = Up(kv_b_->value),
                           .c = Heads(query),
                           .dtype = dtype});
    const Tensor q_rope = s.q.Columns(nope_, nope_ + turn_), query_rope = query.Columns(rank_, rank_ + turn_);
    if (saved == nullptr) {
      kernels::Rope(stream, q_rope, pass.positions, rope_, false, query_rope);
    } else {  // the gradient reads q turned
      kernels::Rope(stream, q_rope, pass.positions, rope_, false);
      kernels::Copy(stream, q_rope, query_rope);
    }

    const kernels::PagedKv pages = pass.kv.layer(layer);
    kernels::WriteKv(stream, pages, pass.attention, s.key, {});
    const Tensor out = pass.arena.New(dtype, {t, heads_, rank_});
    kernels::Attention(stream, pages, pass.attention, query, scale_, out, s.lse);

    // o[h] = out[h] W_uv[h]^T
    kernels::Gemm(stream, {.batch = heads_,
                           .m = t,
                           .n = value_,
                           .k = rank_,
                           .a = Heads(out),
                           .b = Transposed(Down(kv_b_->value)),
                           .c = Heads(s.o),
                           .dtype = dtype});
    pass.arena.Release(mark);
    kernels::Linear(stream, s.o.Reshape({t, heads_ * value_}), o_->value, &o_->packed, ValueOf(o_bias_), delta);
  }

  void Backward(Pass& pass, int64_t /*layer*/, const Tensor& y, const AttentionSaved& s, const Tensor& d_delta,
                const Tensor& dy, const GradientSink& gradients) const override {
    Stream& stream = pass.stream;
    const int64_t t = pass.tokens, q_first = q_rank_ > 0 ? q_rank_ : heads_ * (nope_ + turn_);
    const DType dtype = y.dtype();
    const Arena::Mark mark = pass.arena.mark();

    // delta = o W_o^T
    const Tensor d_o = pass.arena.New(dtype, {t, heads_, value_});
    kernels::LinearBackwardInput(stream, d_delta, o_->value, d_o.Reshape({t, heads_ * value_}), false);
    kernels::LinearBackwardWeight(stream, d_delta, s.o.Reshape({t, heads_ * value_}), gradients[o_],
                                  gradients[o_bias_], gradients.accumulate);

    // [k_nope, v] = c W_kv_b^T, k = [k_nope, rope(k_rope)]
    const Tensor latent = s.key.Reshape({t, rank_ + turn_}).Columns(0, rank_);
    const Tensor kv_rows = pass.arena.New(dtype, {t, heads_ * (nope_ + value_)});
    const Tensor kv = kv_rows.Reshape({t, heads_, nope_ + value_}), v = kv.Columns(nope_, nope_ + value_);
    const Tensor k = pass.arena.New(dtype, {t, heads_, nope_ + turn_});
    kernels::Linear(stream, latent, kv_b_->value, nullptr, {}, kv_rows);
    kernels::Copy(stream, kv.Columns(0, nope_), k.Columns(0, nope_));
    kernels::Copy(stream, s.key.Columns(rank_, rank_ + turn_).Repeat(1, heads_), k.Columns(nope_, nope_ + turn_));
    const kernels::PagedKv pages = pass.expanded->New(pass.arena);
    kernels::WriteKv(stream, pages, pass.expanded->batch(), k, v);

    // o = attention(q, k, v). k's and v's memory takes their gradients: the pages have their values.
    const Tensor d_first = pass.arena.New(dtype, {t, q_first + rank_ + turn_});
    const Tensor d_q_rows =
        q_rank_ > 0 ? pass.arena.New(dtype, {t, heads_ * (nope_ + turn_)}) : d_first.Columns(0, q_first);
    const Tensor d_q = d_q_rows.Reshape({t, heads_, nope_ + turn_}), d_k = k, d_v = v;
    kernels::AttentionBackward(stream, pages, pass.expanded->batch(), s.q, scale_, s.o, s.lse, d_o, d_q, d_k, d_v);
    kernels::Rope(stream, d_q.Columns(nope_, nope_ + turn_), pass.positions, rope_, true);

    // q = q_a W_q_b^T
    if (q_rank_ > 0) {
      const Tensor d_q_latent = d_first.Columns(0, q_rank_);
      kernels::LinearBackwardInput(stream, d_q_rows, q_b_->value, d_q_latent, false);
      kernels::LinearBackwardWeight(stream, d_q_rows, s.q_latent, gradients[q_b_], {}, gradients.accumulate);
      kernels::RmsNormBackward(stream, d_q_latent, s.qkv.Columns(0, q_rank_), q_norm_->value, s.q_latent_rstd,
                               d_q_latent, false, gradients[q_norm_]);
    }

    // k = [k_nope, rope(k_rope)], [k_nope, v] = c W_kv_b^T
    const Tensor d_k_rope = d_first.Columns(q_first + rank_, q_first + rank_ + turn_);
    kernels::SumHeads(stream, d_k.Columns(nope_, nope_ + turn_), d_k_rope);
    kernels::Rope(stream, d_k_rope.Reshape({t, 1, turn_}), pass.positions, rope_, true);
    kernels::Copy(stream, d_k.Columns(0, nope_), kv.Columns(0, nope_));
    const Tensor d_kv = kv_rows, d_latent = d_first.Columns(q_first, q_first + rank_);
    kernels::LinearBackwardInput(stream, d_kv, kv_b_->value, d_latent, false);
    kernels::LinearBackwardWeight(stream, d_kv, latent, gradients[kv_b_], {}, gradients.accumulate);
    kernels::RmsNormBackward(stream, d_latent, s.qkv.Columns(q_first, q_first + rank_), kv_norm_->value, s.kv_rstd,
                             d_latent, false, gradients[kv_norm_]);

    kernels::LinearBackwardInput(stream, d_first, first_->value, dy, false);
    kernels::LinearBackwardWeight(stream, d_first, y, gradients[first_], gradients[first_bias_], gradients.accumulate);
    pass.arena.Release(mark);
  }

 private:
  // x [T, H, n]: one matrix of T rows a head.
  static kernels::MatrixRef Heads(const Tensor& x) { return {x.raw(), x.stride(0), 1, x.stride(1)}; }
  static kernels::MatrixRef Transposed(kernels::MatrixRef m) {
    return {m.data, m.col_stride, m.row_stride, m.batch_stride};
  }
  // W_uk [nope, r] and W_uv [v, r] of each head inside kv_b_proj.
  kernels::MatrixRef Up(const Tensor& kv_b) const { return {kv_b.raw(), rank_, 1, (nope_ + value_) * rank_}; }
  kernels::MatrixRef Down(const Tensor& kv_b) const {
    return {kv_b.Rows(nope_, kv_b.dim(0)).raw(), rank_, 1, (nope_ + value_) * rank_};
  }

  kernels::RopeTable rope_;
  int64_t heads_, q_rank_, rank_, nope_, turn_, value_;
  double scale_;
  Weight *first_ = nullptr, *first_bias_ = nullptr, *o_bias_ = nullptr, *q_norm_ = nullptr, *q_b_ = nullptr,
         *kv_norm_ = nullptr, *kv_b_ = nullptr, *o_ = nullptr;
};

}  // namespace

std::unique_ptr<AttentionLayer> MakeMlaLayer(const ModelConfig& config, const std::string& prefix,
                                             const kernels::RopeTable& rope, WeightStore& store) {
  return std::make_unique<MlaLayer>(config, prefix, rope, store);
}

}  // namespace grouper
