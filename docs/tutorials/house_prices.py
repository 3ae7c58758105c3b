"""House prices: a DenseNet for tables beside ridge regression and gradient boosting, on the Ames sales.

Run it with `python docs/tutorials/house_prices.py AmesHousing.csv`. The 2,930 sales are those of Dean De Cock, "Ames,
Iowa: Alternative to the Boston Housing Data", Journal of Statistics Education 19(3), 2011, whose article links the
table; Kaggle's house-price competition was cut from it. Columns are separated by commas, and the first line names them.
"""

import csv
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from densekit.models.dense_mlp import DenseMLP

# 1. The sales
#
# Two columns only number the sales. The class of a dwelling is a code, not a quantity. Everything else is a number
# where every value of it is one. An empty field says that something is not there (no alley, no garage) or unknown.

if len(sys.argv) != 2:
    sys.exit("usage: python house_prices.py AmesHousing.csv")
with Path(sys.argv[1]).open(encoding="utf-8-sig", newline="") as file:
    sales = list(csv.DictReader(file))
price = np.array([float(sale["SalePrice"]) for sale in sales])
names = [name for name in sales[0] if name not in ("Order", "PID", "SalePrice")]


def is_number(name: str) -> bool:
    """Whether a column holds quantities."""
    return name != "MS SubClass" and all(sale[name].replace(".", "", 1).isdigit() for sale in sales if sale[name])


numbers = [i for i, name in enumerate(names) if is_number(name)]
words = [i for i in range(len(names)) if i not in numbers]
table = np.array([[sale[name].strip() for name in names] for sale in sales], dtype=object)  # (sales, columns)
table[table == ""] = None
table[:, numbers] = table[:, numbers].astype(float)  # None becomes nan
print(f"1. {len(sales)} sales, {len(numbers)} columns of numbers, {len(words)} of words;", end=" ")
print(f"log price {np.log(price).mean():.2f} on average, standard deviation {np.log(price).std():.3f}")

# 2. Preprocessing without leakage
#
# Medians, means, deviations and the list of known words are learned from data, so they must come from the training
# sales of each fold alone. Within a pipeline they do: cross-validation fits all of it anew in every fold. Areas and
# prices are skewed, hence the logarithms. A word seen in fewer than ten training sales counts as "rare".

to_features = ColumnTransformer(
    [
        (
            "numbers",
            make_pipeline(SimpleImputer(strategy="median"), FunctionTransformer(np.log1p), StandardScaler()),
            numbers,
        ),
        (
            "words",
            make_pipeline(
                SimpleImputer(strategy="constant", fill_value="none", missing_values=None),
                OneHotEncoder(min_frequency=10, handle_unknown="infrequent_if_exist", sparse_output=False),
            ),
            words,
        ),
    ]
)

# 3. The network as a scikit-learn regressor
#
# Two dense blocks of two layers, trained for 40 epochs with AdamW and a one-cycle learning rate. The Huber loss
# forgives a few strange sales.


class DenseNetRegressor(RegressorMixin, BaseEstimator):
    """DenseMLP: fit (N, C) features to (N,) targets of about unit variance."""

    def __init__(self, epochs: int = 40, batch_size: int = 128, lr: float = 3e-3, seed: int = 0):
        self.epochs, self.batch_size, self.lr, self.seed = epochs, batch_size, lr, seed

    def fit(self, features: np.ndarray, targets: np.ndarray) -> "DenseNetRegressor":
        """Train a network from new weights."""
        torch.manual_seed(self.seed)
        x, y = (torch.as_tensor(values, dtype=torch.float32) for values in (features, targets))
        self.network_ = DenseMLP(x.shape[1], block_config=(2, 2), growth_rate=32, dropout=0.2)
        optimizer = torch.optim.AdamW(self.network_.parameters(), weight_decay=0.1, fused=True)
        whole_batches = len(x) // self.batch_size
        steps = self.epochs * whole_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        for step in range(steps):
            if step % whole_batches == 0:
                batches = torch.randperm(len(x)).split(self.batch_size)
            batch = batches[step % whole_batches]
            loss = torch.nn.functional.huber_loss(self.network_(x[batch]).squeeze(1), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.network_.eval()
        return self

    @torch.no_grad()
    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict (N,) targets."""
        return self.network_(torch.as_tensor(features, dtype=torch.float32)).squeeze(1).numpy()


# 4. Five folds
#
# Every model predicts the logarithm of the price, so that an error of 0.1 is about ten per cent, of a cheap house as of
# a dear one. The same five folds judge all three; ridge chooses its penalty within the training sales of each fold.

models = {
    "ridge": RidgeCV(alphas=np.logspace(-1, 3, 13)),
    "gradient boosting": GradientBoostingRegressor(
        n_estimators=500, learning_rate=0.05, max_depth=4, subsample=0.7, max_features=0.3, random_state=0
    ),
    "DenseNet": DenseNetRegressor(),
}
folds = KFold(5, shuffle=True, random_state=0)
print("2. root mean squared error of the log price")
print(f"   {'':<18} {'mean':>6} {'sd':>6}   {'each fold':<35} {'time':>6}")
for name, model in models.items():
    started = perf_counter()
    pipeline = make_pipeline(to_features, TransformedTargetRegressor(model, transformer=StandardScaler()))
    scores = cross_validate(pipeline, table, np.log(price), cv=folds, scoring="neg_root_mean_squared_error")
    errors = -scores["test_score"]
    each = " ".join(f"{error:.4f}" for error in errors)
    print(f"   {name:<18} {errors.mean():.4f} {errors.std(ddof=1):.4f}   {each:<35} {perf_counter() - started:4.0f} s")
