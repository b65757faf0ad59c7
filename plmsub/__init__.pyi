from .base.errors import PlmsubError as PlmsubError
from .categories import Category as Category
from .categories import cath_category as cath_category
from .categories import label_category as label_category
from .categories import parse_category as parse_category
from .categories import residue_category as residue_category
from .comparison import compare as compare
from .comparison import readable as readable
from .evaluation import evaluate as evaluate
from .io.cath import read_domains as read_domains
from .io.headers import read_proteins as read_proteins
from .models.export import export_fairesm as export_fairesm
from .models.export import export_transformers as export_transformers
from .models.weights import load_plm as load_plm
from .plm import Plm as Plm
from .plots import plot_comparison as plot_comparison
from .plots import plot_perplexity as plot_perplexity
from .proteins import Domain as Domain
from .proteins import Protein as Protein
from .splits import leakage as leakage
from .splits import split as split
from .subnetwork import Subnetwork as Subnetwork
from .tasks.language_model import mlm_perplexity as mlm_perplexity
from .train import TrainConfig as TrainConfig
from .train import fit as fit
from .train import load_run as load_run

__version__: str
