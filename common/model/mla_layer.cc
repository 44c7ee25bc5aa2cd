// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), always absorbed: with c the normalised latent of
// kv_lora_rank numbers,
//   score(t, s) = <q_nope[h] W_uk[h], c_s> + <rope(q_rope[h]), rope(k_rope_s)>,      o[h] = (sum_s p_s c_s) W_uv[h]^T,
// where kv_b_proj's rows hold, per head, W_uk [nope, r] and then W_uv [v, r]. The cache keeps [c, rope(k_rope)] per
// token, for all heads.
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
    kernels::Copy(stream, s.qkv.Columns(q_first + rank_, q_first + rank_ + turn_),
                  key_rows.Columns(rank_, rank_ + turn_));
    kernels::Rope(stream, s.key.Columns(rank_, rank_ + turn_), pass.positions, rope_, false);

    // query[h] = [q_nope[h] W_uk[h], rope(q_rope[h])]
    s.query = pass.arena.New(dtype, {t, heads_, rank_ + turn_});
    kernels::Gemm(stream, {.batch = heads_,
                           .m = t,
                           .n = rank_,
                           .k = nope_,
                           .a = Heads(s.q),
                           .b = Up(kv_b_->value),
                           .c = Heads(s.query),
                           .dtype = dtype});
    kernels::Copy(stream, s.q.Columns(nope_, nope_ + turn_), s.query.Columns(rank_, rank_ + turn_));
    kernels::Rope(stream, s.query.Columns(rank_, rank_ + turn_), pass.positions, rope_, false);

    const kernels::PagedKv pages = pass.kv.layer(layer);
    kernels::WriteKv(stream, pages, pass.attention, s.key, {});
    s.out = pass.arena.New(dtype, {t, heads_, rank_});
    s.lse = statistic({t, heads_});
    kernels::Attention(stream, pages, pass.attention, s.query, scale_, s.out, s.lse);

    // o[h] = out[h] W_uv[h]^T
    s.o = pass.arena.New(dtype, {t, heads_, value_});
    kernels::Gemm(stream, {.batch = heads_,
                           .m = t,
                           .n = value_,
                           .k = rank_,
                           .a = Heads(s.out),
                           .b = Transposed(Down(kv_b_->value)),
                           .c = Heads(s.o),
                           .dtype = dtype});
    kernels::Linear(stream, s.o.Reshape({t, heads_ * value_}), o_->value, &o_->packed, ValueOf(o_bias_), delta);
  }

  void Backward(Pass& pass, int64_t layer, const Tensor& y, const AttentionSaved& s, const Tensor& d_delta,
                const Tensor& dy, const GradientSink& gradients) const override {
    Stream& stream = pass.stream;
    const int64_t t = pass.tokens, q_first = q_rank_ > 0 ? q_rank_ : heads_ * (nope_ + turn_);
    const DType dtype = y.dtype();
    const Arena::Mark mark = pass.arena.mark();
    const Tensor d_kv_b = gradients[kv_b_];

    // delta = o W_o^T
    Tensor d_o = pass.arena.New(dtype, {t, heads_, value_});
    kernels::LinearBackwardInput(stream, d_delta, o_->value, d_o.Reshape({t, heads_ * value_}), false);
    kernels::LinearBackwardWeight(stream, d_delta, s.o.Reshape({t, heads_ * value_}), gradients[o_],
                                  gradients[o_bias_]);

    // o[h] = out[h] W_uv[h]^T
    Tensor d_out = pass.arena.New(dtype, {t, heads_, rank_});
    kernels::Gemm(stream, {.batch = heads_,
                           .m = t,
                           .n = rank_,
                           .k = value_,
                           .a = Heads(d_o),
                           .b = Down(kv_b_->value),
                           .c = Heads(d_out),
                           .dtype = dtype});
    kernels::HeadWeightGradient(stream, d_o, s.out, Down(d_kv_b), d_kv_b.dtype());

    // out = attention(query, key)
    Tensor d_query = pass.arena.New(dtype, {t, heads_, rank_ + turn_});
    Tensor d_key = pass.arena.New(dtype, {t, 1, rank_ + turn_});
    kernels::AttentionBackward(stream, pass.kv.layer(layer), pass.attention, s.query, scale_, s.out, s.lse, d_out,
                               d_query, d_key, {});
    kernels::Rope(stream, d_query.Columns(rank_, rank_ + turn_), pass.positions, rope_, true);
    kernels::Rope(stream, d_key.Columns(rank_, rank_ + turn_), pass.positions, rope_, true);

    // query[h] = [q_nope[h] W_uk[h], q_rope[h]]
    Tensor d_first = pass.arena.New(dtype, {t, q_first + rank_ + turn_});
    Tensor d_q_rows = q_rank_ > 0 ? pass.arena.New(dtype, {t, heads_ * (nope_ + turn_)}) : d_first.Columns(0, q_first);
    const Tensor d_q = d_q_rows.Reshape({t, heads_, nope_ + turn_});
    kernels::Gemm(stream, {.batch = heads_,
                           .m = t,
                           .n = nope_,
                           .k = rank_,
                           .a = Heads(d_query),
                           .b = Transposed(Up(kv_b_->value)),
                           .c = Heads(d_q),
                           .dtype = dtype});
    kernels::HeadWeightGradient(stream, s.q.Columns(0, nope_), d_query.Columns(0, rank_), Up(d_kv_b), d_kv_b.dtype());
    kernels::Copy(stream, d_query.Columns(rank_, rank_ + turn_), d_q.Columns(nope_, nope_ + turn_));
    if (q_rank_ > 0) {
      Tensor d_q_latent = pass.arena.New(dtype, {t, q_rank_});
      kernels::LinearBackwardInput(stream, d_q_rows, q_b_->value, d_q_latent, false);
      kernels::LinearBackwardWeight(stream, d_q_rows, s.q_latent, gradients[q_b_], {});
      kernels::RmsNormBackward(stream, d_q_latent, s.qkv.Columns(0, q_rank_), q_norm_->value, s.q_latent_rstd,
                               d_first.Columns(0, q_rank_), false, gradients[q_norm_]);
    }

    // key = [norm(latent), k_rope]
    const Tensor d_key_rows = d_key.Reshape({t, rank_ + turn_});
    kernels::RmsNormBackward(stream, d_key_rows.Columns(0, rank_), s.qkv.Columns(q_first, q_first + rank_),
                             kv_norm_->value, s.kv_rstd, d_first.Columns(q_first, q_first + rank_), false,
                             gradients[kv_norm_]);
    kernels::Copy(stream, d_key_rows.Columns(rank_, rank_ + turn_),
                  d_first.Columns(q_first + rank_, q_first + rank_ + turn_));

    kernels::LinearBackwardInput(stream, d_first, first_->value, dy, false);
    kernels::LinearBackwardWeight(stream, d_first, y, gradients[first_], gradients[first_bias_]);
    pass.arena.Release(mark);
  }

 private:
  // x [T, H, n]: one matrix of T rows a head.
  static kernels::MatrixRef Heads(const Tensor& x) { return {x.raw(), x.stride(0), 1, x.stride(1)}; }
  static kernels::MatrixRef Transposed(kernels::MatrixRef m) {
    return {m.data, m.col_stride, m.row_stride, m.batch_stride};
  }
  // W_uk [nope, r] and W_uv [v, r] of each head inside kv_b_proj (or its gradient).
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
