"Everything a user wants from one import: `from plmsub.all import *`"
from plmsub.anatomy import gathering, magnitudes, overlap, overlaps, zeros_of
from plmsub.baselines import composition_model, ngram_losses, ngram_model, tuned_alpha, window_net
from plmsub.batches import CategoryBatches, encode, masked_positions
from plmsub.cath import (Category, Domain, Protein, cath_category, domain_number_category, label_category, of_length, parse_category,
                         predicate_category, random_category, read_cath_names, read_domains, read_fasta, read_labels, read_residue_labels,
                         residue_category, residue_label_category)
from plmsub.compare import abilities, by_distance, compare
from plmsub.controls import magnitude_mask, random_mask, untrained_masks
from plmsub.coordinates import Chain, read_chain
from plmsub.core import ConfigError, DataError, ModelError, PlmsubError, RunError
from plmsub.dssp import assign_dssp, read_dssp, read_dssp_table, with_dssp
from plmsub.export import export_fairesm, export_transformers
from plmsub.figures import all_figures
from plmsub.folding import fold, fold_beside, load_folding
from plmsub.headers import read_proteins
from plmsub.manifest import fetch, holdings
from plmsub.masks import HardMask, WeightMask, select_weights
from plmsub.original import released_config
from plmsub.perplexity import mlm_perplexity, perplexity, pseudo_perplexity, unigram_model
from plmsub.plm import Plm, load_plm, save_fairesm, save_plm, tiny_esm1, tiny_esm2
from plmsub.plots import plot_abilities, plot_leakage, plot_overlap, plot_perplexity, plot_selectivity, plot_training, plot_zeros
from plmsub.pretrain import PretrainConfig, pretrain
from plmsub.splits import Split, clusters, leakage, relatives, split, split_from_lists
from plmsub.structure import plot_structure, score_folder, score_pair, tm_score, view_structure
from plmsub.subnetwork import Subnetwork, keep_both, keep_either, load_mask, load_subnetwork, save_mask
from plmsub.sweep import Job, prices, read_jobs, sweep, write_jobs
from plmsub.toy import toy_corpus, write_toy
from plmsub.train import Run, TrainConfig, controls, fit, load_run
from plmsub.variants import read_variants
