"Everything a user wants from one import: `from plmsub.all import *`"
from plmsub.anatomy import gathering, magnitudes, overlap, overlaps, zeros_of
from plmsub.baselines import composition_model, ngram_losses, ngram_model, tuned_alpha, window_net
from plmsub.batches import CategoryBatches, encode, masked_positions
from plmsub.cath import (Category, Domain, Protein, cath_category, domain_number_category, label_category, of_length, parse_category,
                         predicate_category, random_category, read_cath_names, read_domains, read_fasta, read_labels, read_residue_labels,
                         residue_category, residue_label_category)
from plmsub.compare import abilities, by_distance, compare, readable, readable_abilities
from plmsub.controls import magnitude_mask, random_mask, untrained_masks
from plmsub.coordinates import Chain, read_chain
from plmsub.core import ConfigError, DataError, ModelError, PlmsubError, RunError
from plmsub.dssp import assign_dssp, read_dssp, read_dssp_table, with_dssp
from plmsub.embed import (Embeddings, OneHot, amino_acid_map, compress, embed_proteins, mean_embeddings, model_draws, plot_amino_acids,
                          residue_states)
from plmsub.export import export_fairesm, export_transformers
from plmsub.figures import all_figures
from plmsub.folding import fold, fold_beside, load_folding
from plmsub.headers import read_proteins
from plmsub.homology import aligned_pairs, embedding_map, homology, plot_map, read_alignment, translation
from plmsub.manifest import fetch, holdings
from plmsub.masks import HardMask, WeightMask, select_weights
from plmsub.original import released_config
from plmsub.perplexity import mlm_perplexity, per_protein, perplexity, pseudo_perplexity, unigram_model
from plmsub.plm import Plm, load_plm, save_fairesm, save_plm, tiny_esm1, tiny_esm2
from plmsub.plots import plot_abilities, plot_leakage, plot_overlap, plot_perplexity, plot_selectivity, plot_training, plot_zeros
from plmsub.pretrain import PretrainConfig, pretrain
from plmsub.probes import (accuracy_along, attention_probe, checkpoint_models, contact_precision, contact_probe, cross_validated, folds,
                           over_folds, plot_accuracy, probe_baselines, secondary_probe, secondary_structure)
from plmsub.released import convert_checkpoint, paper_jobs, paper_runs, write_results
from plmsub.results import paper_results, result_tables
from plmsub.splits import Split, clusters, leakage, relatives, split, split_from_lists
from plmsub.structure import plot_structure, score_folder, score_pair, tm_score, view_structure
from plmsub.subnetwork import Subnetwork, keep_both, keep_either, load_mask, load_subnetwork, save_mask
from plmsub.sweep import Job, prices, read_jobs, sweep, write_jobs
from plmsub.toy import toy_corpus, write_toy
from plmsub.train import Run, TrainConfig, controls, fit, load_run
from plmsub.transfer import (TuneConfig, confusion, cross_validate, fine_tune, identity_folds, plot_confusion, read_localisation,
                             transfer_scores)
from plmsub.variants import (lasso, lasso_proteins, lasso_variants, leave_one_protein_out, make_variants, protein_targets, read_variants,
                             spearman, supervised, zero_shot)
