// SPDX-License-Identifier: Apache-2.0
// The rANS kernels in terms of one instruction set's primitives: included by kernels_<isa>.cc only, inside its
// anonymous namespace, after a struct `Isa` with
//
//   State    32 x u16; Bytes 32 x u8; Table 16 x u8
//   load/store of each; splat; splat_four (of a u32 at an address); lookup(table, indices below 128: their low 4 bits);
//   greater (signed, 0 or -1), add, subtract, both; low_bytes(state); mask_bytes(lane mask) -> 0 or -1;
//   update(state, frequency, offset) = frequency * (state >> 8) + offset, offset = slot - start in 0..255;
//   refill(state, next, active): lanes of `active` below 2^8 take a byte each, in lane order;
//   select(mask, a, b): a where the mask is set
//
// A step of 32 lanes is one dependent chain; its cost is latency, so four streams in turn cost little more than two.

struct Decoded {
  typename Isa::Bytes symbol;  // index
  typename Isa::Bytes frequency;
  typename Isa::Bytes start;
};

[[gnu::always_inline]] inline Decoded find_symbols(const SymbolCode& code, Isa::Bytes slot) {
  const auto heap = Isa::table(code.heap);
  const auto flipped = Isa::flip(slot);
  auto at = Isa::add(Isa::splat(4), Isa::greater(Isa::splat_four(&code.root), flipped));
  for (int depth = 1; depth < 4; ++depth) {
    at = Isa::add(Isa::add(at, at), Isa::greater(Isa::lookup(heap, at), flipped));
  }
  return {at, Isa::lookup(Isa::table(code.frequency), at), Isa::lookup(Isa::table(code.start), at)};
}

[[gnu::always_inline]] inline Decoded find_digits(const DigitCode& code, Isa::Bytes slot, Isa::Bytes context) {
  const auto flipped = Isa::flip(slot);
  const auto low = Isa::lookup(Isa::table(code.low), context);
  const auto high = Isa::lookup(Isa::table(code.high), context);
  // context + (slot >= low) + (slot >= high)
  const auto at =
      Isa::add(Isa::add(Isa::add(context, Isa::splat(2)), Isa::greater(low, flipped)), Isa::greater(high, flipped));
  return {at, Isa::lookup(Isa::table(code.frequency), at), Isa::lookup(Isa::table(code.start), at)};
}

inline Decoded find(const RansStep& step, const void* code, Isa::Bytes slot, Isa::Bytes context) {
  return step.kind == StepKind::kSymbol ? find_symbols(*static_cast<const SymbolCode*>(code), slot)
                                        : find_digits(*static_cast<const DigitCode*>(code), slot, context);
}

// One stream in registers.
struct Stream {
  typename Isa::State state;
  const uint8_t* next;
  const uint8_t* safe_end;
  typename Isa::Bytes largest;  // over all symbol indices, to notice escapes

  Stream() = default;
  explicit Stream(const RansReader& reader)
      : state(Isa::load(reader.state)), next(reader.next), safe_end(reader.safe_end), largest(Isa::splat(0)) {}
  void save(RansReader& reader) const {
    Isa::store(state, reader.state);
    reader.next = next;
  }
  bool escaped() const { return Isa::any_equal(largest, kFirstLeaf + 15); }
};

inline void refill_stream(Stream& stream, RansReader& reader) {
  reader.next = stream.next;
  reader.refill();
  stream.next = reader.next;
  stream.safe_end = reader.safe_end;
}

inline void take_mixed(const RansStep& step, Stream& stream) {
  const auto* codes = static_cast<const void* const*>(step.code);
  const auto slot = Isa::low_bytes(stream.state);
  const auto context = step.kind == StepKind::kDigit ? Isa::digit_context(step.values) : slot;
  Decoded all{Isa::splat(0), Isa::splat(0), Isa::splat(0)};
  uint32_t active = 0;
  for (uint32_t run = 0; run < step.runs->count; ++run) {
    const uint32_t lanes = step.runs->mask[run];
    const auto mask = Isa::mask_bytes(lanes);
    const Decoded part = find(step, codes[run], slot, context);
    all.symbol = Isa::select(mask, part.symbol, all.symbol);
    all.frequency = Isa::select(mask, part.frequency, all.frequency);
    all.start = Isa::select(mask, part.start, all.start);
    active |= lanes;
  }
  const auto next = Isa::update(stream.state, all.frequency, Isa::subtract(slot, all.start));
  stream.state = Isa::select_lanes(active, next, stream.state);
  stream.state = Isa::refill(stream.state, stream.next, active);
  if (step.kind == StepKind::kSymbol) {
    Isa::store_symbols(all.symbol, active, step.values);
    stream.largest = Isa::larger(stream.largest, all.symbol);
  } else {
    Isa::refine(all.symbol, context, active, step.values);
  }
}

[[gnu::always_inline]] inline void take(const RansStep& step, Stream& stream, RansReader& reader) {
  if (stream.next > stream.safe_end) [[unlikely]]
    refill_stream(stream, reader);
  if (step.runs != nullptr) [[unlikely]] {
    take_mixed(step, stream);
    return;
  }
  const auto slot = Isa::low_bytes(stream.state);
  if (step.kind == StepKind::kSymbol) {
    const Decoded found = find_symbols(*static_cast<const SymbolCode*>(step.code), slot);
    stream.state = Isa::update(stream.state, found.frequency, Isa::subtract(slot, found.start));
    stream.state = Isa::refill(stream.state, stream.next, kAllLanes);
    Isa::store_symbols(found.symbol, kAllLanes, step.values);
    stream.largest = Isa::larger(stream.largest, found.symbol);
  } else {
    const auto context = Isa::digit_context(step.values);
    const Decoded found = find_digits(*static_cast<const DigitCode*>(step.code), slot, context);
    stream.state = Isa::update(stream.state, found.frequency, Isa::subtract(slot, found.start));
    stream.state = Isa::refill(stream.state, stream.next, kAllLanes);
    Isa::refine(found.symbol, context, kAllLanes, step.values);
  }
}

// Runs the next `count` steps of each of `Streams`. The result has a bit per escaped one of `all`.
template <size_t Streams>
inline uint32_t take_in_turn(RansWork* const* work, size_t count, std::span<const RansWork> all) {
  Stream stream[Streams];
  for (size_t s = 0; s < Streams; ++s) stream[s] = Stream(*work[s]->reader);
  const RansStep* steps[Streams];
  for (size_t s = 0; s < Streams; ++s) steps[s] = work[s]->steps.data();
  for (size_t i = 0; i < count; ++i) {
    // Unrolled, the streams stay in registers.
#pragma GCC unroll 4
    for (size_t s = 0; s < Streams; ++s) take(steps[s][i], stream[s], *work[s]->reader);
  }
  uint32_t escaped = 0;
  for (size_t s = 0; s < Streams; ++s) {
    stream[s].save(*work[s]->reader);
    escaped |= stream[s].escaped() ? 1u << (work[s] - all.data()) : 0u;
    work[s]->steps = work[s]->steps.subspan(count);
  }
  return escaped;
}

uint32_t decode_together(std::span<RansWork> work) {
  uint32_t escaped = 0;
  for (;;) {
    RansWork* left[kMostStreams];
    size_t streams = 0;
    size_t fewest = SIZE_MAX;
    for (RansWork& of_stream : work) {
      if (of_stream.steps.empty() || streams == kMostStreams) continue;
      left[streams++] = &of_stream;
      fewest = of_stream.steps.size() < fewest ? of_stream.steps.size() : fewest;
    }
    if (streams == 0) return escaped;
    if (streams == 4) {
      escaped |= take_in_turn<4>(left, fewest, work);
    } else if (streams == 3) {
      escaped |= take_in_turn<3>(left, fewest, work);
    } else if (streams == 2) {
      escaped |= take_in_turn<2>(left, fewest, work);
    } else {
      escaped |= take_in_turn<1>(left, fewest, work);
    }
  }
}

void rows_above(const int16_t* values, size_t rows, const int16_t* most, uint8_t* above) {
  for (size_t row = 0; row < rows; ++row) above[row] = Isa::any_above(values + row * kLanes, most[row]) ? 1 : 0;
}

struct EncodeTerms {
  typename Isa::Bytes reciprocal_low, reciprocal_high, factor_high, frequency, bias_low, bias_high;
};

inline EncodeTerms terms_of(const EncodeCode& code, Isa::Bytes symbols) {
  return {Isa::lookup(Isa::table(code.reciprocal_low), symbols), Isa::lookup(Isa::table(code.reciprocal_high), symbols),
          Isa::lookup(Isa::table(code.factor_high), symbols),    Isa::lookup(Isa::table(code.frequency), symbols),
          Isa::lookup(Isa::table(code.bias_low), symbols),       Isa::lookup(Isa::table(code.bias_high), symbols)};
}

uint8_t* encode_steps(uint16_t* lanes, std::span<const RansEncodeStep> steps, uint8_t* end) {
  auto state = Isa::load(lanes);
  for (size_t i = steps.size(); i-- > 0;) {
    const RansEncodeStep& step = steps[i];
    const auto symbols = Isa::load_bytes(step.symbols);
    uint32_t active = kAllLanes;
    EncodeTerms terms;
    if (step.runs == nullptr) [[likely]] {
      terms = terms_of(*static_cast<const EncodeCode*>(step.code), symbols);
    } else {
      const auto* codes = static_cast<const void* const*>(step.code);
      const auto zero = Isa::splat(0);
      terms = {zero, zero, zero, zero, zero, zero};
      active = 0;
      for (uint32_t run = 0; run < step.runs->count; ++run) {
        const auto mask = Isa::mask_bytes(step.runs->mask[run]);
        const EncodeTerms part = terms_of(*static_cast<const EncodeCode*>(codes[run]), symbols);
        terms.reciprocal_low = Isa::select(mask, part.reciprocal_low, terms.reciprocal_low);
        terms.reciprocal_high = Isa::select(mask, part.reciprocal_high, terms.reciprocal_high);
        terms.factor_high = Isa::select(mask, part.factor_high, terms.factor_high);
        terms.frequency = Isa::select(mask, part.frequency, terms.frequency);
        terms.bias_low = Isa::select(mask, part.bias_low, terms.bias_low);
        terms.bias_high = Isa::select(mask, part.bias_high, terms.bias_high);
        active |= step.runs->mask[run];
      }
    }
    const auto frequency = Isa::pair(Isa::splat(0), terms.frequency);  // f << 8
    const auto spilled = Isa::spill(state, frequency, active, end);
    const auto t = Isa::multiply_high(spilled, Isa::pair(terms.reciprocal_low, terms.reciprocal_high));
    const auto v = Isa::add_lanes(Isa::halve(Isa::subtract_lanes(spilled, t)), t);
    const auto quotient = Isa::multiply_high(Isa::add_lanes(v, v), Isa::pair(Isa::splat(0), terms.factor_high));
    // x + quotient * (256 - f) + bias, all modulo 2^16; quotient * 256 - quotient * f.
    const auto product = Isa::multiply_low(quotient, Isa::complement(terms.frequency));
    const auto next = Isa::add_lanes(Isa::add_lanes(spilled, product), Isa::pair(terms.bias_low, terms.bias_high));
    state = Isa::select_lanes(active, next, state);
  }
  Isa::store(state, lanes);
  return end;
}
