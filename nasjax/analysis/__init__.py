"""What a table says: rankings, their agreement, what separates cells.

Functions of arrays; `results` alone reads a table. Error rates are fractions,
lower is better; NaN stands for a run that failed, and is counted, never
averaged. Intervals cover 95 % unless a level is given. Which of several is
better than a reference says one rule, `judge`.
"""

from nasjax.analysis.agreement import (
  TOP_SHARE,
  Ceiling,
  attainable,
  by_seed,
  by_slice,
  noise_ceiling,
  noise_ceiling_at_top,
  slices,
  spearman_brown,
)
from nasjax.analysis.by_recipe import (
  Results,
  by_cell,
  latencies,
  means,
  results,
)
from nasjax.analysis.contents import (
  Composition,
  Level,
  Ranking,
  choices,
  composition,
  counts,
  ranking,
)
from nasjax.analysis.decisions import Decision, Part, decisions, explained
from nasjax.analysis.fronts import hypervolume, non_dominated, pareto_front
from nasjax.analysis.leaders import Best, best, expected_best
from nasjax.analysis.likenesses import Chance, Likeness, likeness
from nasjax.analysis.proxies import Proxy, mean_rank, proxies
from nasjax.analysis.separation import (
  Group,
  Separation,
  Spread,
  separate,
  spread,
)
from nasjax.analysis.statistics import (
  MIN_VALUES,
  Correlation,
  Estimate,
  bootstrap_interval,
  compare,
  correlation_matrix,
  kendall_correlation,
  mean,
  median,
  rank_correlation,
  resampled_correlations,
  share,
  spearman,
  student_mean,
)
from nasjax.analysis.transfer import (
  Chosen,
  Transfer,
  choose,
  of_cells,
  pearson,
  transfer,
)
from nasjax.analysis.verdicts import POWER, Verdict, judge, since

__all__ = [
  'MIN_VALUES',
  'POWER',
  'TOP_SHARE',
  'Best',
  'Chance',
  'Ceiling',
  'Chosen',
  'Composition',
  'Correlation',
  'Decision',
  'Estimate',
  'Group',
  'Level',
  'Likeness',
  'Part',
  'Proxy',
  'Ranking',
  'Results',
  'Separation',
  'Spread',
  'Transfer',
  'Verdict',
  'attainable',
  'best',
  'bootstrap_interval',
  'by_cell',
  'by_seed',
  'by_slice',
  'choices',
  'choose',
  'compare',
  'composition',
  'correlation_matrix',
  'counts',
  'decisions',
  'expected_best',
  'explained',
  'hypervolume',
  'judge',
  'kendall_correlation',
  'likeness',
  'latencies',
  'mean',
  'mean_rank',
  'means',
  'median',
  'noise_ceiling',
  'noise_ceiling_at_top',
  'non_dominated',
  'of_cells',
  'pareto_front',
  'pearson',
  'proxies',
  'rank_correlation',
  'ranking',
  'resampled_correlations',
  'results',
  'separate',
  'share',
  'since',
  'slices',
  'spearman',
  'spearman_brown',
  'spread',
  'student_mean',
  'transfer',
]
