"""What figures show, in a sentence each: their titles, made from the data.

They say no more than the numbers do: that something is better where the one
rule of `analysis.judge` says so, or intervals are apart, and else that nothing
can be said; or what was measured. Where the most striking of several is named,
intervals are widened for their number (Bonferroni). Error rates are fractions.
"""

import numpy as np
import scipy.special

from nasjax.analysis import statistics, verdicts
from nasjax.plots import curves as curves_lib
from nasjax.spaces import Chain


def _percent(value):
  return f'{100 * value:.1f} %'


def _wider(found, many):
  """Returns an estimate whose interval of 95 % holds with `many` beside it."""
  ratio = scipy.special.ndtri(1 - 0.025 / many) / scipy.special.ndtri(0.975)
  return found._replace(
    low=found.value - ratio * (found.value - found.low),
    high=found.value + ratio * (found.high - found.value),
  )


def _around_zero(found):
  return found.low <= 0 <= found.high


def _first(text):
  return text[:1].upper() + text[1:]


def learning(val_per_pe, labels_p, groups_p, metric='PER'):
  """Of `learning_curves`: how two groups differ, or how far all come.

  Groups are compared by their networks, the mean over runs of the error rates
  of their best epochs, and only if there are two.
  """
  found = curves_lib.best_epochs(val_per_pe, labels_p)
  value = {label: float(np.mean(runs)) for label, runs in found.items()}
  by_group = {group: [] for group in sorted(set(groups_p))}
  for label, group in dict(zip(labels_p, groups_p)).items():
    if label in value:
      by_group[group].append(value[label])
  if not value:
    return f'No network was trained to the end: validation {metric} by epoch'
  if len(by_group) == 2 and all(len(x_n) > 1 for x_n in by_group.values()):
    (one, x_n), (other, y_n) = by_group.items()
    # Few are all that there are: taken for normally distributed.
    v = verdicts.judge({one: x_n}, y_n, paired=False, least=2)[one]
    span = (
      f'{100 * v.difference:+.1f} points, 95 %: {100 * v.low:+.1f} to '
      f'{100 * v.high:+.1f}'
    )
    if v.lies == 'open':
      return _first(
        f'{one} and {other}: no significant difference in validation {metric} '
        f'({span})'
      )
    lower = 'lower' if v.lies == 'below' else 'higher'
    return _first(f'{one}: validation {metric} {lower} than {other} ({span})')
  low, median, high = np.quantile(list(value.values()), (0, 0.5, 1))
  if len(value) == 1:
    return f'Validation {metric} falls to {_percent(low)}'
  return (
    f'Validation {metric} of {len(value):,} networks at their best epochs: '
    f'{_percent(low)} to {_percent(high)}, half of them at most '
    f'{_percent(median)}'
  )


def fronts(costs, per_n, metric='PER', counted='cells'):
  """Of `paretos`: how many cells nothing beats."""
  per_n = np.asarray(per_n, np.float64)
  told, before = [], None
  for name, (cost_n, front_n) in costs.items():
    both_n = np.isfinite(np.asarray(cost_n, np.float64)) & np.isfinite(per_n)
    count = int(np.sum(np.asarray(front_n, bool) & both_n))
    of = '' if before == both_n.sum() else f' of {both_n.sum():,} {counted}'
    of += '' if told else ' unbeaten'
    told.append(f'{count:,}{of} in test {metric} and {name}')
    before = both_n.sum()
  return ', '.join(told)


def distributions(per_by_name, what='PER', counted='cells'):
  """Of `distributions`: where half of them stand."""
  ended = {}
  for name, per_n in per_by_name.items():
    per_n = np.asarray(per_n, np.float64)
    if np.isfinite(per_n).any():
      ended[name] = per_n[np.isfinite(per_n)]
  if not ended:
    return f'No {what}: nothing has ended'
  median = {name: float(np.median(per_n)) for name, per_n in ended.items()}
  if len(ended) == 1:
    ((name, per_n),) = ended.items()
    return (
      f'{_first(what)} of {len(per_n):,} {counted} ({name}): '
      f'{_percent(per_n.min())} to {_percent(per_n.max())}, half of them at '
      f'most {_percent(median[name])}'
    )
  low, high = min(median, key=median.get), max(median, key=median.get)
  if median[low] == median[high]:
    return f'{_first(what)}: all medians are {_percent(median[low])}'
  return (
    f'{_first(what)}: the median of the {counted} is lowest for {low}, '
    f'{_percent(median[low])}, and highest for {high}, {_percent(median[high])}'
  )


def agree(one, other, found):
  """Whether two rankings agree, by a `statistics.Correlation`."""
  if np.isnan(found.low):
    return f'{_first(one)} and {other}: too few to tell ({found.n})'
  number = (
    f'rank correlation {found.value:z.2f} [{found.low:z.2f}, {found.high:z.2f}]'
  )
  if found.low > 0:
    return f'{_first(one)} and {other} agree: {number}'
  if found.high < 0:
    return f'{_first(one)} has the reverse order of {other}: {number}'
  return f'No agreement of {one} and {other} can be claimed: {number}'


def agreements(found):
  """Of `correlations`: which rankings agree most, and how many do not."""
  known = {name: c for name, c in found.items() if not np.isnan(c.low)}
  if not known:
    return 'Too few cells to tell whether rankings agree'
  best = max(known, key=lambda name: known[name].value)
  many = len(known)
  left = sum(not _wider(c, many).low > 0 for c in known.values())
  text = f'Highest for {best}, {known[best].value:z.2f}'
  if left:
    return f'{text}; no agreement can be claimed for {left} of {many}'
  if len(known) == 1:
    return text
  worst = min(known, key=lambda name: known[name].value)
  return f'{text}, lowest for {worst}, {known[worst].value:z.2f}; all agree'


def seeds(value_ns, metric='PER'):
  """Of `seed_ranges`: how far the seeds of a cell lie apart."""
  value_ns = np.asarray(value_ns, np.float64)
  value_ns = value_ns[np.isfinite(value_ns).all(axis=1)]
  if not value_ns.size:
    return 'No cell has all of its runs'
  if value_ns.shape[1] < 2:
    return 'One seed: nothing says how far others would lie apart'
  apart = float(np.median(np.ptp(value_ns, axis=1)))
  mean_n = value_ns.mean(axis=1)
  low, high = np.quantile(mean_n, (0.25, 0.75))
  return (
    f'The {value_ns.shape[1]} seeds of a cell lie {100 * apart:.1f} points of '
    f'{metric} apart (median); half of the cells lie within '
    f'{100 * (high - low):.1f} points'
  )


def makeup(groups):
  """Of `composition`: in what the first group differs most from another."""
  if not groups:
    return 'No cells'
  first, *others = groups
  most = None
  for other in others:
    shares = list(_shares(groups[first], groups[other]))
    many = len(shares) * len(others)
    for what, one, two in shares:
      apart = abs(one.value - two.value)
      lies = statistics.compare(_wider(one, many), _wider(two, many))
      if lies in ('below', 'above') and (most is None or apart > most[0]):
        most = apart, other, what, one, two
  if most is None:
    if not others:
      return f'What {first} cells are made of'
    return f'Nothing tells the {first} cells from others significantly'
  _, other, what, one, two = most
  return (
    f'The {first} cells differ most from the {other} in {what}: '
    f'{100 * one.value:.0f} % of them have it, there {100 * two.value:.0f} %'
  )


def _shares(one, two):
  """Yields what two `Composition`s have, and the shares of both."""
  for ends, share in one.skips.items():
    if ends in two.skips:
      yield f'the skip {ends}', share, two.skips[ends]
  for place, ops, others in zip(one.places, one.ops, two.ops):
    for op, share in ops.items():
      if op in others:
        yield f'{op} at {place}', share, others[op]


def ranked(found, metric='PER'):
  """Of `rankings`: what the error rate goes with most."""
  found = {kind: r for kind, r in found.items() if r.levels}
  if not found:
    return f'Test {metric}: no cell has all of its runs'
  sure = {
    kind: r.correlation
    for kind, r in found.items()
    if r.correlation is not None
    and not np.isnan(r.correlation.low)
    and not _around_zero(_wider(r.correlation, len(found)))
  }
  if sure:
    kind = max(sure, key=lambda kind: abs(sure[kind].value))
    way = 'rises' if sure[kind].value > 0 else 'falls'
    return (
      f'Test {metric} {way}{" most clearly" * (len(sure) > 1)} with the number '
      f'of {kind}: rank correlation {sure[kind].value:z.2f}'
    )
  if any(r.correlation is not None for r in found.values()):
    return f'Test {metric} goes with none of these counts significantly'
  apart = {}
  for kind, r in found.items():
    known = [level for level in r.levels if not np.isnan(level.median.low)]
    known.sort(key=lambda level: level.median.value)
    if len(known) > 1:
      low, high = known[0], known[-1]
      many = len(found)
      ends = _wider(low.median, many), _wider(high.median, many)
      if statistics.compare(*ends) == 'below':
        apart[kind] = low, high
  if not apart:
    return f'Test {metric}: no choice can be told from another by its median'
  kind = max(
    apart, key=lambda k: apart[k][1].median.value - apart[k][0].median.value
  )
  low, high = apart[kind]
  return (
    f'Test {metric} depends most on {kind}: median '
    f'{_percent(low.median.value)} with {low.count}, '
    f'{_percent(high.median.value)} with {high.count}'
  )


def decided(edges, alpha_by_edge):
  """Of `probabilities` and `entropies`: how many edges are decided."""
  entropy = {}
  for name, candidates in edges:
    alpha_ek = np.array(alpha_by_edge[name], np.float64)
    if len(alpha_ek) and np.isfinite(alpha_ek[-1]).all():
      p_k = scipy.special.softmax(alpha_ek[-1])
      entropy[name] = scipy.special.entr(p_k).sum() / np.log(len(candidates))
  if not entropy:
    return 'nothing is known of the last epoch'
  sure = sum(value < 0.5 for value in entropy.values())
  return (
    f'{sure} of {len(entropy)} edges are decided (entropy below 0.5; mean '
    f'{np.mean(list(entropy.values())):.2f})'
  )


def newest(curves, what):
  """Of `search_curves`: which searcher has the lowest median at the end."""
  last = {}
  for name, (_, value_rc) in curves.items():
    end_r = np.asarray(value_rc, np.float64)[:, -1]
    if np.isfinite(end_r).any():
      last[name] = float(np.nanmedian(end_r))
  if not last:
    return f'{_first(what)}: nothing was found'
  (low, lowest), (high, highest) = (
    (' and '.join(name for name in last if last[name] == end), _percent(end))
    for end in (min(last.values()), max(last.values()))
  )
  text = f'{_first(what)}: at the end lowest for {low}, {lowest}'
  if low != high:
    text += f', highest for {high}, {highest}'
  return text.replace('_', ' ') + ' (medians)'


def space(searched):
  """Of `search_space`: how many there are of what is drawn."""
  text = f'{searched.name}: {searched.size:,} vectors'
  if not isinstance(searched, Chain):
    return f'{text}, {len(searched.fields)} decisions'
  skips = f', {sum(searched.skips)} skips' * any(searched.skips)
  ops = f'{len(searched.ops)} operations at {searched.nodes} nodes'
  return f'{text}: {ops}{skips}'
