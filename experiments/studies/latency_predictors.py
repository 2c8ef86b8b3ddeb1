"""How well predictors of latency do on networks that they have not seen."""

# Those of nasjax/predictors/latency.py, which takes seconds to import.
NAMES = ('operations', 'macs', 'boosting', 'forest', 'gcn')
# Relative errors within which predictions are counted.
WITHIN = (0.01, 0.05, 0.1)


def check(flag, name, *others):
  """Raises a ValueError if a flag names no predictor, nor one of others."""
  known = *others, *NAMES
  if name not in known:
    raise ValueError(f'--{flag}={name}: there are {", ".join(known)}')


def judged(names, profile, folds, say):
  """Predicts each network of a profile by the others.

  Args:
    names: of predictors.
    profile: `predictors.latency.Profile`, of two networks a fold or more.
    folds: parts, each predicted by the others.
    say: called with a line for each predictor.

  Returns:
    a dict of plain values for each, for JSON.
  """
  import numpy as np

  from nasjax import analysis
  from nasjax.predictors import latency as predictors

  found = {}
  for name in names:
    told_n = predictors.held_out(name, profile, folds)
    there_n = np.isfinite(told_n)
    if not there_n.any():
      # What no other network has, nobody can predict.
      say(
        f'{name}: every network has a choice that no other fold has; profile '
        f'more than {len(there_n)}'
      )
      found[name] = {'median_error': None, 'left_out': len(there_n)}
      continue
    told_n, seconds_n = told_n[there_n], profile.seconds_n[there_n]
    error_n = np.abs(told_n / seconds_n - 1)
    shares = [
      analysis.share(int((error_n <= within).sum()), len(error_n))
      for within in WITHIN
    ]
    rank = analysis.rank_correlation(told_n, seconds_n)
    found[name] = {
      'within': {
        f'{within:g}': share._asdict() for within, share in zip(WITHIN, shares)
      },
      'median_error': float(np.median(error_n)),
      'spearman': {k: None if v != v else v for k, v in rank._asdict().items()},
      'left_out': int((~there_n).sum()),
    }
    say(
      f'{name}: '
      + ', '.join(
        f'within {within:.0%} {s.value:.0%} [{s.low:.0%}, {s.high:.0%}]'
        for within, s in zip(WITHIN, shares)
      )
      + f'; median error {np.median(error_n):.1%}, Spearman {rank.value:.2f}, '
      f'{len(error_n)} held-out networks'
    )
  return found
