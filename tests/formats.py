"""The formats that plmsub reads: for each, small valid files, the reader, and an oracle

An oracle says what a faithful reading of some bytes is, by other means than the reader: it is short and strict, gives no
advice, and raises `Unreadable` for what no reader may accept. Used by `fuzz.py` and `test_bad_files.py`."""
import argparse, csv, functools, gzip, io, json, math, pickle, re, tarfile, tempfile, zipfile, zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np, torch
from Bio.PDB.MMCIF2Dict import MMCIF2Dict
from safetensors.torch import load, save

from plmsub.batches import encode, esm_alphabet
from plmsub.cath import (cath_category, read_cath_fasta, read_cath_names, read_clf, read_domains, read_dssp_fasta, read_fasta, read_labels,
                         read_residue_labels)
from plmsub.coordinates import Chain, ideal_backbone, pdb_text, read_chain
from plmsub.core import generator, read_log
from plmsub.dssp import read_dssp, read_dssp_table
from plmsub.export import export_transformers
from plmsub.headers import read_proteins
from plmsub.manifest import Release, read_listing, read_manifest, unpack
from plmsub.masks import HardMask
from plmsub.plm import FORMAT, read_fairesm, read_plm, read_transformers, save_fairesm, save_plm, tiny_esm2
from plmsub.pretrain import PretrainConfig, Trainee, load_checkpoint, pretrain
from plmsub.splits import PARTS, read_split, split, split_from_lists
from plmsub.subnetwork import MASK_FORMAT, load_mask, save_mask
from plmsub.toy import clf_text, fasta_text, toy_domains
from plmsub.train import TrainConfig, fit, load_run, load_state, new_state
from plmsub.variants import read_variants

# --- What the oracles are made of. They raise `Unreadable` for bytes that no reader may accept.

class Unreadable(Exception): "No faithful reading exists"

def need(ok, why=''):
    if not ok: raise Unreadable(why)

def text_of(data, invisible=False):
    "UTF-8 text with plain line ends and, unless allowed, nothing invisible, from plain or compressed bytes"
    try:
        if data.startswith(b'\x1f\x8b'): data = gzip.decompress(data)
        text = data.decode('utf-8').removeprefix('\ufeff').replace('\r\n', '\n').replace('\r', '\n')
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e: raise Unreadable(e) from None
    need(invisible or text.replace('\n', '').replace('\t', '').isprintable(), 'invisible characters')
    return text

def rows_of(data, comment='#'):
    "Lines that are neither empty nor comments"
    return [line for line in text_of(data).split('\n') if line.strip() and not line.startswith(comment)]

def fasta_of(data):
    "(header, text) of each record"
    first, *records = re.split(r'^>', text_of(data), flags=re.M)
    need(not first.strip() and records)
    return [(head.strip(), ''.join(map(str.strip, body))) for head, *body in (r.split('\n') for r in records)]

def cath_of(data):
    "(id, boundary, text) of each record with a CATH header"
    found = [(re.fullmatch(r'(?:\S*\|)?(\w{7})(?:/([-\w()]+))?(?:\s.*)?', head, re.A), text) for head, text in fasta_of(data)]
    need(all(match for match, _ in found))
    return [(*match.groups(), text) for match, text in found]

def clf_of(data): return [[*columns[:11], float(columns[11])] for columns in map(str.split, rows_of(data))]

def unique(rows):
    need(len({row[0] for row in rows}) == len(rows), 'an id twice')
    return rows

def letters(rows, alphabet):
    need(all(text and not text.strip(alphabet) for *_, text in rows), 'letters')
    return rows

def json_of(data, nan=False):
    "Strict JSON: no key twice and, unless `nan`, finite numbers only"
    def pairs(items):
        need(len(dict(items)) == len(items), 'a key twice')
        return dict(items)
    def number(digits):
        need(nan or np.isfinite(float(digits)), 'no number')
        return float(digits)
    text = data if isinstance(data, str) else text_of(data, invisible=True)
    try: return json.loads(text, object_pairs_hook=pairs, parse_constant=number, parse_float=number)
    except (ValueError, RecursionError) as e: raise Unreadable(e) from None

TYPES = {'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'U8': 'u1', 'BOOL': '?', 'I64': 'i8'}

def tensors_of(data):
    "Metadata, and name -> (type, shape, bytes) of a safetensors file"
    n = int.from_bytes(data[:8], 'little')
    try: head, body = json.loads(data[8:8+n].decode()), data[8+n:]
    except (ValueError, RecursionError) as e: raise Unreadable(e) from None
    meta = head.pop('__metadata__', {})
    try: spans = sorted((*about['data_offsets'], name, TYPES[about['dtype']], tuple(about['shape'])) for name, about in head.items())
    except (KeyError, TypeError, AttributeError) as e: raise Unreadable(e) from None
    need([0, *(end for _, end, *_ in spans)] == [*(start for start, *_ in spans), len(body)], 'gaps')
    return meta, {name: (kind, shape, body[start:end]) for start, end, name, kind, shape in spans}

def plain(tensors):
    "Tensors as (type, shape, bytes)"
    return {name: (w.numpy().dtype.str[1:].replace('b1', '?'), tuple(w.shape), w.contiguous().numpy().tobytes()) for name, w in tensors.items()}

def finite(tensors):
    need(all(np.isfinite(np.frombuffer(content, kind)).all() for kind, _, content in tensors.values()), 'not finite')
    return tensors

# --- Readers and their oracles

@dataclass(frozen=True)
class Format:
    "Small valid files, a reader, and an oracle that says what a faithful reading of the same bytes is"
    files:Callable # () -> file name -> bytes; one of them is mutated
    read:Callable # folder -> plain values
    oracle:Callable # file name -> bytes, to the same plain values, or raises `Unreadable`
    lines:bool=True # do errors name a line?
    from_file:bool=True # is it a file that the reader is given? Then errors name it

def one_file(name, data, read, oracle, **kwargs): # for a format of one file: `read` takes its path, `oracle` its bytes
    return Format(functools.cache(lambda: {name: data() if callable(data) else data}),
        lambda folder: read(folder/name), lambda files: oracle(files[name]), **kwargs)

TOY = toy_domains()[:4]
RESIDUES, STATES = 'ACDEFGHIKLMNPQRSTVWYXBZUO', 'HGIEBTSLCP.'

def toy_text(what): return fasta_text(TOY, what).encode()
def saved(save, *args, name='file'): # the bytes of the files that `save(..., path)` writes
    with tempfile.TemporaryDirectory() as folder:
        save(*args, Path(folder)/name)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}

def clf(file):
    return [[r.id, *r.code.split('.'), *map(str, (*r.clusters, r.length)), r.resolution_A] for r in read_clf(file).values()]

def clf_oracle(data):
    for row in clf_of(data):
        need(len(row) == 12 and re.fullmatch(r'[0-9][a-z0-9]{3}[A-Za-z0-9][0-9]{2}', row[0]) and row[1] in '12346')
        need(all(re.fullmatch('[1-9][0-9]*', column) for column in row[1:11]))
    return unique(clf_of(data))

def domains(folder):
    return [(d.id, d.boundary, d.sequence, d.code, d.clusters, d.dssp, d.resolution_A)
        for d in read_domains(folder/'toy.clf', folder/'toy.fa', folder/'toy_dssp.fa')]

def domains_oracle(files):
    rows = {row[0]: row for row in clf_oracle(files['toy.clf'])}
    dssp = {id: text for id, _, text in unique(letters(cath_of(files['toy_dssp.fa']), STATES))}
    found = unique(letters(cath_of(files['toy.fa']), RESIDUES))
    need(all(id in rows and len(text) == int(rows[id][10]) == len(dssp.get(id, text)) for id, _, text in found))
    return [(id, boundary, text, '.'.join(rows[id][1:5]), tuple(map(int, rows[id][5:10])), dssp.get(id),
        rows[id][11] if 0 < rows[id][11] < 999 else None) for id, boundary, text in found]

def tokens(file):
    names, sequences = esm_alphabet().all_toks, file.read_bytes().decode('utf-8', 'surrogateescape').split('\n')
    return [''.join(names[t] for t in row if names[t] != '<pad>') for row in encode(sequences).tolist()]

def label_oracle(data):
    rows = [[column.strip() for column in row.split('\t')] for row in rows_of(data)]
    need(rows and all(len(row) == 2 and all(row) for row in rows))
    return dict(unique(rows))

def proteins(header):
    "Reads proteins and writes each header again from its labels"
    def written(p):
        x = p.labels
        if header == 'plain': return ' '.join(filter(None, (p.id, x['description'])))
        if header == 'deeplocpro': return '|'.join((p.id, x['location'], x['group'], str(x['fold'])))
        fields = [f'{key}={x[name]}' for key, name in dict(OS='organism', OX='taxon', GN='gene', PE='existence', SV='version').items() if x[name] is not None]
        return ' '.join((f"{x['db']}|{p.id}|{x['entry']}", x['protein'], *fields))
    def read(file):
        found = read_proteins(file, header)
        need(len({p.id for p in found}) == len(found), 'an id twice')
        return [(p.id, written(p), p.sequence) for p in found]
    return read

def headers_oracle(id, canonical=str): # `id` finds the id in a header
    return lambda data: unique([(id(canonical(head)), canonical(head), text) for head, text in letters(fasta_of(data), RESIDUES)])

def with_headers(*headers): # FASTA of as many toy proteins
    return ''.join(f'>{head}\n{d.sequence}\n' for head, d in zip(headers, TOY)).encode()

def names_oracle(data):
    rows = [re.fullmatch(r'\s*([1-46](?:\.[1-9]\d*){0,3})\s+(\w{7})\s+:(.*)', line.replace('\xa0', ' '), re.A) for line in text_of(data, invisible=True).split('\n') if line.strip() and line.strip()[0] != '#']
    need(rows and all(rows))
    return dict(unique([(row[1], row[3].strip()) for row in rows]))

def residue_labels_oracle(data):
    text = text_of(data)
    if text.lstrip().startswith('>'): rows = [(head.split()[0], body) for head, body in fasta_of(data)]
    else: rows = label_oracle(data).items()
    return dict(unique(letters(rows, ''.join(map(chr, range(33, 127))).replace('#', '').replace('>', ''))))

CHAIN = Chain('MKTXYIAKQ', ideal_backbone([(-60, -45)]*9), numbers=[(i, '') for i in (-1, 0, 1, 2)] + [(2, 'A')] + [(i, '') for i in (5, 6, 7, 8)])
THREE = dict(M='MET', K='LYS', T='THR', X='UNK', Y='TYR', I='ILE', A='ALA', Q='GLN')
BACKBONE = ('N', 'CA', 'C', 'O')

def cif_text(): # the same chain as mmCIF
    columns = 'group_PDB id label_atom_id label_alt_id label_comp_id label_asym_id label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z ' \
        'occupancy B_iso_or_equiv auth_seq_id auth_asym_id pdbx_PDB_model_num'
    rows = [f'ATOM {4*i+k+1} {name} . {THREE[CHAIN.sequence[i]]} A {i+1} {code or "?"} {x:.3f} {y:.3f} {z:.3f} 1.00 20.50 {number} A 1'
        for i, (number, code) in enumerate(CHAIN.numbers) for k, (name, (x, y, z)) in enumerate(zip(BACKBONE, CHAIN.atoms[i]))]
    return '\n'.join(['data_toy', '#', '_entry.id toy', '_struct.title \'A toy\'', 'loop_', *(f'_atom_site.{c}' for c in columns.split()), *rows, '#', ''])

def chain(file):
    found = read_chain(file)
    need(len(found.sequence) == len(found.numbers) == len(found.atoms) == len(found.b_factors))
    return [(letter, *number, *atoms.ravel().tolist(), b) for letter, number, atoms, b in zip(found.sequence, found.numbers, found.atoms, found.b_factors.tolist())]

def residues_of(atoms): # dicts of name, alternate, residue, chain, number, code, xyz, occupancy, b
    "Residues of the only chain with CA atoms, as `chain` gives them"
    residues, one, chains = {}, {three: letter for letter, three in THREE.items()}, {a['chain'] for a in atoms if a['name'] == 'CA'}
    need(len(chains) == 1, 'chains')
    for a in (a for a in atoms if a['chain'] in chains): residues.setdefault((a['number'], a['code']), []).append(a)
    found = []
    for (number, code), group in residues.items():
        if not any(a['name'] == 'CA' for a in group) and group[0]['residue'] not in one: continue
        best = {a['name']: a for a in sorted(group, key=lambda a: a['occupancy'])}
        need(len({(a['name'], a['alternate']) for a in group if a['name'] in BACKBONE}) == sum(a['name'] in BACKBONE for a in group), 'an atom twice')
        xyz = [number for name in BACKBONE for number in (best[name]['xyz'] if name in best else (math.nan,)*3)]
        need(np.isfinite([x for x in xyz if x == x]).all())
        found.append((one.get(group[0]['residue'], 'X'), number, code, *xyz, best['CA']['b'] if 'CA' in best else math.nan))
    return found

def pdb_oracle(data):
    atoms = []
    for line in text_of(data).split('\n'):
        if line[:6].rstrip() in ('END', 'ENDMDL', 'MODEL') and atoms: break
        if line[:6] not in ('ATOM  ', 'HETATM'): continue
        try: atoms.append(dict(name=line[12:16].strip(), alternate=line[16], residue=line[17:20].strip(), chain=line[21], number=int(line[22:26]),
            code=line[26:27].strip(), xyz=tuple(float(line[i:i+8]) for i in (30, 38, 46)), occupancy=float(line[54:60].strip() or 1), b=float(line[60:66].strip() or 'nan')))
        except (ValueError, IndexError) as e: raise Unreadable(e) from None
    return residues_of(atoms)

def table_of(data, category, *names):
    "Rows of a table of an mmCIF file, as Biopython reads it; '' for what is not known"
    try: table = MMCIF2Dict(io.StringIO(re.sub(r'^(data_|loop_|_\S+)', lambda word: word[0].lower(), text_of(data), flags=re.M | re.I)))
    except ValueError as e: raise Unreadable(e) from None
    columns = [table.get(f'_{category}.{name}') for name in names]
    need(any(columns) and len({len(c) for c in columns if c}) == 1, 'columns of different lengths')
    known = lambda text: '' if text in '.?' else text
    return [dict(zip(names, map(known, row))) for row in zip(*(c or ['?']*max(len(c) for c in columns if c) for c in columns))]

def cif_oracle(data):
    rows, atoms = table_of(data, 'atom_site', 'label_atom_id', 'label_alt_id', 'label_comp_id', 'label_asym_id', 'label_seq_id', 'auth_asym_id', 'auth_seq_id',
        'pdbx_pdb_ins_code', 'cartn_x', 'cartn_y', 'cartn_z', 'occupancy', 'b_iso_or_equiv', 'pdbx_pdb_model_num'), []
    for row in rows:
        if row['pdbx_pdb_model_num'] != rows[0]['pdbx_pdb_model_num'] : continue
        try: atoms.append(dict(name=row['label_atom_id'], alternate=row['label_alt_id'], residue=row['label_comp_id'], chain=row['auth_asym_id'] or row['label_asym_id'],
            number=int(row['auth_seq_id'] or row['label_seq_id']), code=row['pdbx_pdb_ins_code'], xyz=tuple(float(row[f'cartn_{x}']) for x in 'xyz'),
            occupancy=float(row['occupancy'] or 1), b=float(row['b_iso_or_equiv'] or 'nan')))
        except ValueError as e: raise Unreadable(e) from None
    return residues_of(atoms)

def dssp_cif_oracle(data):
    rows, one = table_of(data, 'dssp_struct_summary', 'label_comp_id', 'label_asym_id', 'label_seq_id', 'secondary_structure', 'x_ca', 'y_ca', 'z_ca'), {three: letter for letter, three in THREE.items()}
    need(len({row['label_asym_id'] for row in rows}) == 1 == max(len(row['secondary_structure'] or 'C') for row in rows))
    try: found = [(one.get(row['label_comp_id'], 'X'), int(row['label_seq_id']), '', row['secondary_structure'] or 'C', *(float(row[f'{x}_ca'] or 'nan') for x in 'xyz')) for row in rows]
    except ValueError as e: raise Unreadable(e) from None
    need(len({row[1] for row in found}) == len(found) and not ''.join(row[3] for row in found).strip('HGIEBTSPC'))
    return found

STATES_OF_CHAIN = ' HHHHTS E' # as DSSP writes them: a blank is loop

def dssp_text(): # the same chain in the classic format
    number = lambda i: '{:5d}{:1s}'.format(*CHAIN.numbers[i])
    rows = [f'{i+1:5d}{number(i)}A {letter}  {state}' + ' '*98 + '{:7.1f}{:7.1f}{:7.1f}'.format(*CHAIN.atoms[i,1])
        for i, (letter, state) in enumerate(zip(CHAIN.sequence, STATES_OF_CHAIN))]
    return '\n'.join(['==== Secondary Structure Definition by the program DSSP ====', f'{len(rows):5d}  1  0  0  0 TOTAL NUMBER OF RESIDUES, NUMBER OF CHAINS',
        '  #  RESIDUE AA STRUCTURE BP1 BP2  ACC     N-H-->O', *rows, ''])

def dssp_cif_text(): # and as mmCIF
    names = ['label_comp_id', 'label_asym_id', 'label_seq_id', 'secondary_structure', 'x_ca', 'y_ca', 'z_ca']
    rows = [f'{THREE[letter]} A {i+1} {state.strip() or "."} ' + '{:.1f} {:.1f} {:.1f}'.format(*CHAIN.atoms[i,1])
        for i, (letter, state) in enumerate(zip(CHAIN.sequence, STATES_OF_CHAIN))]
    return '\n'.join(['data_toy', 'loop_', *(f'_dssp_struct_summary.{name}' for name in names), *rows, ''])

def dssp(file):
    found = read_dssp(file)
    need(len(found.sequence) == len(found.dssp) == len(found.numbers))
    return [(letter, *number, state, *xyz) for letter, number, state, xyz in zip(found.sequence, found.numbers, found.dssp, found.atoms[:,1].tolist())]

def dssp_oracle(data):
    head, _, body = text_of(data).partition('  #  RESIDUE AA')
    rows, said = [row for row in body.split('\n')[1:] if row.strip()], re.search(r'^ *(\d+) .*TOTAL NUMBER OF RESIDUES', head, re.M | re.A)
    try: found = [('C' if row[13].islower() else row[13], int(row[5:10]), row[10].strip(), row[16].replace(' ', 'C'), *(float(row[i:i+7]) for i in (115, 122, 129)))
        for row in rows if row[13:14] != '!']
    except (ValueError, IndexError) as e: raise Unreadable(e) from None
    need(found and int(said[1] if said else len(found)) == len(found) and len({row[11] for row in rows if row[13] != '!'}) == 1)
    need(len({row[1:3] for row in found}) == len(found) and not ''.join(row[3] for row in found).strip('HGIEBTSPC'))
    need(not ''.join(row[0] for row in found).strip(RESIDUES))
    return found

def dssp_table_text():
    rows = [(d.id, name, str(len(d.sequence)), d.sequence, d.dssp) for d, name in zip(TOY, ('DSSP8', 'HEC', 'DSSP'))]
    return '\n'.join('\t'.join(row) for row in [('domain', 'alphabet', 'length', 'sequence', 'ss'), *rows]) + '\n'

def dssp_table_oracle(data):
    head, *rows = [line.split('\t') for line in text_of(data).split('\n') if line.strip()]
    need(rows and all(len(row) == len(head) == len(set(head)) for row in rows) and {'domain', 'alphabet', 'sequence', 'ss'} <= set(head))
    rows, found = [dict(zip(head, row)) for row in rows], {}
    for row in rows:
        known, coil, none = {'DSSP8': ('HGIEBTSPC', '', '-'), 'HEC': ('HEC', '', '-'), 'DSSP': ('HGIEBTSPC', '-L', '.')}[row['alphabet']]
        need(row['domain'] not in found and row['sequence'] and not row['sequence'].strip(RESIDUES) and not row['ss'].strip(known + coil + none))
        need(len(row['sequence']) == len(row['ss']) and row.get('length', str(len(row['ss']))) == str(len(row['ss'])))
        found[row['domain']] = row['sequence'], re.sub(f'[{re.escape(none)}]', '.', re.sub(f'[{coil}]', 'C', row['ss']) if coil else row['ss'])
    return found

def scan_text(): # a table of variants of one toy protein
    wild, rows = TOY[0].sequence[:30], []
    for i, (changes, value) in enumerate([(((0, 'A'),), '-3.5'), (((4, 'W'),), '0.25'), (((4, 'C'), (9, 'Y')), ''), (((29, 'D'),), '1e-2')]):
        letters = list(wild)
        for place, new in changes: letters[place] = new
        rows.append(f"{i},{':'.join(f'{wild[place]}{place+1}{new}' for place, new in changes)},{value},{''.join(letters)}")
    return '\n'.join([',mutant,target,sequence', *rows, '']).encode()

def scan(file):
    return [(tuple(zip(*map(sorted, [row.mutant.split(':')]))), repr(row.target), row.sequence, row.wild_type) for row in read_variants(file).itertuples()]

def scan_oracle(data):
    try: head, *rows = [row for row in csv.reader(text_of(data).split('\n'), strict=True) if row]
    except csv.Error as e: raise Unreadable(e) from None
    head, found = [column.strip() for column in head], []
    need(all(len(row) == len(head) for row in rows) and all(head.count(column) == 1 for column in ('mutant', 'target', 'sequence')))
    for row in (dict(zip(head, map(str.strip, row))) for row in rows):
        wild, changes = list(row['sequence']), [re.fullmatch(r'([A-Z])(\d+)([A-Z])', change.strip(), re.A) for change in re.split('[:,]', row['mutant'])]
        need(all(changes) and len({int(change[2]) for change in changes}) == len(changes))
        for old, place, new in map(re.Match.groups, changes):
            need(0 < int(place) <= len(wild) and wild[int(place)-1] == new)
            wild[int(place)-1] = old
        name = tuple((f'{old}{int(place)}{new}',) for old, place, new in sorted(map(re.Match.groups, changes), key=lambda c: f'{c[0]}{int(c[1])}{c[2]}'))
        value = float(row['target'] if row['target'].lower() not in ('', 'na') else 'nan')
        found.append((name, repr(value), row['sequence'], ''.join(wild)))
    need(len({wild for *_, wild in found}) == 1 and 'inf' not in str([value for _, value, *_ in found]))
    return unique(letters(letters(found, RESIDUES), RESIDUES))

def ids_oracle(lists):
    need(all(isinstance(ids, list) and ids and all(isinstance(id, str) for id in ids) for ids in lists))
    unique([[id] for ids in lists for id in ids])
    need({id for ids in lists for id in ids} <= {d.id for d in proteome()})
    return [sorted(ids) for ids in lists]

@functools.cache
def proteome(): return read_domains('toy')[:60]
@functools.cache
def model(): return tiny_esm2(n_layers=1, dim=8, n_heads=2)
@functools.cache
def tiny_run(): # the files of a real run of two steps
    parts, config = split(proteome(), 'domain', category=cath_category('1')), TrainConfig(steps=2, batch_size=4, suppressed=2, valid_proteins=8)
    with tempfile.TemporaryDirectory() as folder:
        fit(model(), parts, cath_category('1'), config, folder)
        paths = [p for p in sorted(Path(folder).rglob('*')) if p.is_file()]
        return {p.name: p.read_bytes() for p in paths}

def parts_of(parts): return [[d.id for d in getattr(parts, p)] for p in PARTS]
def split_values(file):
    parts = read_split(file, proteome())
    return parts_of(parts), parts.by, parts.seed, parts.suppressed_by

def split_oracle(data):
    d, levels = json_of(data), ('class', 'architecture', 'topology', 'superfamily', 'domain')
    need(isinstance(d, dict) and set(d) == {*PARTS, 'by', 'seed', 'suppressed_by'})
    need(d['by'] in (*levels, 'lists') and d['suppressed_by'] in (*levels, None) and type(d['seed']) in (int, type(None)))
    return ids_oracle([d[p] for p in PARTS]), d['by'], d['seed'], d['suppressed_by']

def plm(file):
    found = (read_plm if file.suffix == '.safetensors' else read_fairesm)(file)
    return found.settings.to_dict(), plain(found.all_weights)

def plm_oracle(data):
    meta, tensors = tensors_of(data)
    need(FORMAT in meta)
    about = json_of(meta[FORMAT])
    need(isinstance(about, dict) and isinstance(about['name'], str))
    return about['settings'], finite(tensors)

@functools.cache
def hf_files():
    with tempfile.TemporaryDirectory() as folder:
        export_transformers(model(), Path(folder)/'tiny')
        config, state = ((Path(folder)/'tiny'/name).read_bytes() for name in ('config.json', 'model.safetensors'))
    used = {name: w for name, w in load(state).items() if 'position_embeddings' not in name}
    return {'config.json': config, 'model.safetensors': save(used)}

def hf_plm(folder):
    found = read_transformers(folder)
    return found.settings.to_dict(), sorted(content for name, content in plain(found.all_weights).items() if name != 'rotary')

def hf_oracle(files): # a setting that is not said, or null, has the value that transformers gives it
    said, (_, given) = json_of(files['config.json']), tensors_of(files['model.safetensors'])
    config = {'token_dropout': False, **{k: v for k, v in said.items() if v is not None}}
    fixed = dict(model_type='esm', vocab_size=33, mask_token_id=32, pad_token_id=1, layer_norm_eps=1e-5, position_embedding_type='rotary')
    need(all(config.get(k) == v for k, v in fixed.items()) and config['intermediate_size'] == 4*config['hidden_size'])
    settings = {ours: config[theirs] for ours, theirs in dict(n_layers='num_hidden_layers', dim='hidden_size', n_heads='num_attention_heads',
        token_dropout='token_dropout').items()}
    return settings, sorted(finite({key: w for key, w in given.items() if not re.search('contact_head|inv_freq|position_', key)}).values())

def some_mask(): return HardMask({name: torch.rand(w.shape, generator=generator(0, name)) < .7 for name, w in model().weights.items()})
def their_load(data):
    with torch.serialization.safe_globals([argparse.Namespace]): return torch.load(io.BytesIO(data), weights_only=True)

@functools.cache
def their_files(): # fair-esm's two files, the same bytes every time
    files = saved(save_fairesm, model(), name='esm2_tiny.pt')
    for name, data in files.items():
        torch.save(their_load(data), again := io.BytesIO())
        files[name] = again.getvalue()
    return files

def their_plm(folder):
    settings, tensors = plm(folder/'esm2_tiny.pt')
    return settings, sorted(tensors.values())

def their_oracle(files):
    "What torch itself reads, where the checksums of the zip archive hold"
    states = {}
    for name, data in files.items():
        try:
            need(zipfile.ZipFile(io.BytesIO(data)).testzip() is None, 'checksum')
            states[name] = their_load(data)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as e: raise Unreadable(e) from None
    cfg = states['esm2_tiny.pt']['cfg']['model']
    settings = dict(n_layers=cfg.encoder_layers, dim=cfg.encoder_embed_dim, n_heads=cfg.encoder_attention_heads, token_dropout=cfg.token_dropout)
    given = finite(plain({key: w for state in states.values() for key, w in state['model'].items() if not key.startswith('contact_head')}))
    return settings, sorted(content for key, content in given.items() if 'lm_head.weight' not in key)

def mask(file):
    found, about = load_mask(file)
    return {name: (m.shape, m.numpy().tobytes()) for name, m in found.items()}, about

def mask_oracle(data):
    meta, tensors = tensors_of(data)
    need(MASK_FORMAT in meta)
    about, found = json_of(meta[MASK_FORMAT]), {}
    need(isinstance(about, dict) and about['shapes'].keys() == tensors.keys())
    for name, (kind, _, content) in tensors.items():
        shape, kept = tuple(about['shapes'][name]), np.unpackbits(np.frombuffer(content, kind))
        n = np.prod(shape, dtype=int)
        need(kind == 'u1' and 0 <= len(kept) - n < 8 and not kept[n:].any())
        found[name] = shape, kept[:n].astype(bool).tobytes()
    return found, about

def run(folder):
    found = load_run(folder, model())
    masks = {name: (m.shape, m.numpy().tobytes()) for name, m in found.subnetwork.mask.items()}
    return json.loads(json.dumps(asdict(found.config))), found.category.to_dict(), found.scores, read_log(folder), (masks, found.subnetwork.about)

def run_oracle(files):
    about, scores = json_of(files['config.json']), json_of(files['result.json'])
    complete = text_of(files['log.jsonl'], invisible=True).rpartition('\n')[0]
    return about['config'], about['category'], scores, [json_of(line, nan=True) for line in complete.split('\n') if complete], mask_oracle(files['mask.safetensors'])

def checkpoint(file):
    place = file.parent/'checkpoint'/file.name
    place.parent.mkdir(exist_ok=True)
    file.replace(place)
    state = new_state(model(), TrainConfig(steps=2))
    load_state(state, place)
    moments = state.optimiser.state[state.mask.logits]
    return plain(dict(logits=state.mask.logits.detach(), exp_avg=moments['exp_avg'], exp_avg_sq=moments['exp_avg_sq'], best=state.best)), \
        dict(step=state.step, scores=state.scores)

def checkpoint_oracle(data):
    meta, tensors = tensors_of(data)
    return tensors, json_of(meta['state'])

def pretraining(file):
    place = file.parent/'checkpoint'/file.name
    place.parent.mkdir(exist_ok=True)
    file.replace(place)
    trainee = Trainee(PRETRAIN, torch.device('cpu'))
    load_checkpoint(trainee, place)
    moments = {f'{k} {n}': trainee.optimizer.state[w][k] for n, w in trainee.leaves.items() for k in ('exp_avg', 'exp_avg_sq')}
    return str(trainee.step), plain({f'weight {n}': w.detach() for n, w in trainee.leaves.items()} | moments)

def pretraining_oracle(data):
    meta, tensors = tensors_of(data)
    return meta['step'], tensors

PRETRAIN = PretrainConfig(n_layers=1, dim=8, n_heads=2, steps=4, warmup_steps=1, checkpoint_every=2, batch_tokens=64)
@functools.cache
def pretraining_files():
    with tempfile.TemporaryDirectory() as folder:
        pretrain([d.sequence for d in TOY], PRETRAIN, folder)
        return {p.name: p.read_bytes() for p in Path(folder).rglob('00000004.safetensors')}

def id_lists(folder): return parts_of(split_from_lists(proteome(), *(folder/f'{p}.txt' for p in PARTS), rest='out'))
def id_list_files(): return {f'{p}.txt': ''.join(f'{d.id}\n' for d in proteome()[i:12:3]).encode() for i, p in enumerate(PARTS)}

RELEASE = Release('files', 'paper', 'https://zenodo.org/api/records/1', 'paper/files', 'Files of a record', listing='zenodo')
ENTRIES = [dict(name='list', group='cath', url='https://example.org/list.txt', file='cath/list.txt', about='A list', bytes=12, sha256='0a'*32), asdict(RELEASE)]
LISTED = dict(files=[dict(key=f'{x}.csv', size=i, checksum=f'md5:{x*32}', links=dict(self=f'https://example.org/{x}.csv')) for i, x in enumerate('ab')])

def manifest_oracle(data):
    known, entries = list(asdict(RELEASE)), json_of(data)
    need(isinstance(entries, list) and all(isinstance(e, dict) and set(e) <= set(known) for e in entries))
    for key in ('name', 'file'): unique([[e[key]] for e in entries])
    need(all(isinstance(e[k], str) and e[k] for e in entries for k in ('name', 'group', 'url', 'file', 'about')))
    need(all(e['url'].startswith(('http://', 'https://')) and '..' not in e['file'].split('/') and not e['file'].startswith('/') for e in entries))
    return [{k: e.get(k) for k in known} for e in entries]

def listing_oracle(data):
    files = [(f['key'], f['links']['self'], f['size'], *f['checksum'].split(':')) for f in json_of(data)['files']]
    need(files and all(type(f[2]) is int and f[2] >= 0 and re.fullmatch('[0-9a-f]{32}' if f[3] == 'md5' else '[0-9a-f]{64}', f[4]) for f in files))
    return unique([f for f in files if need('..' not in f[0].split('/')) is None])

MEMBERS = {'toy/1t00A01': b'ATOM', 'toy/1t00A02': b'HETATM'}
def zip_bytes():
    with zipfile.ZipFile(file := io.BytesIO(), 'w') as z:
        for name, data in MEMBERS.items(): z.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()

def tgz_bytes():
    with tarfile.open(fileobj=(file := io.BytesIO()), mode='w') as t:
        for name, data in MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            t.addfile(member, io.BytesIO(data))
    return gzip.compress(file.getvalue(), mtime=0)

def unpacked(archive): # what is in the members; nothing may land outside of the new folder
    with tempfile.TemporaryDirectory() as place:
        (Path(place)/'in').mkdir()
        found = unpack(archive, Path(place)/'in'/'new')
        need(not [p for p in Path(place).rglob('*') if p.is_file() and found not in p.parents], 'a file outside')
        return sorted(p.read_bytes() for p in found.rglob('*') if p.is_file())

FORMATS = {
    'clf': one_file('toy.clf', clf_text(TOY).encode(), clf, clf_oracle),
    'fasta': one_file('toy.fa', toy_text('sequence'), read_fasta, lambda data: letters(fasta_of(data), RESIDUES)),
    'cath fasta': one_file('toy.fa', toy_text('sequence'), lambda file: [(id, *x) for id, x in read_cath_fasta(file).items()],
        lambda data: unique(letters(cath_of(data), RESIDUES))),
    'dssp strings': one_file('toy_dssp.fa', toy_text('dssp'), read_dssp_fasta,
        lambda data: {id: text for id, _, text in unique(letters(cath_of(data), STATES))}),
    'domains': Format(lambda: {'toy.clf': clf_text(TOY).encode(), 'toy.fa': toy_text('sequence'), 'toy_dssp.fa': toy_text('dssp')}, domains, domains_oracle),
    'sequences': one_file('toy.txt', '\n'.join(d.sequence for d in TOY).encode(), tokens,
        lambda data: [f'<cls>{text}<eos>' for _, text in letters([(0, t) for t in text_of(data).split('\n')], RESIDUES)], from_file=False, lines=False),
    'labels': one_file('labels.tsv', ''.join(f'{d.id}\tclass {d.code[0]}\n' for d in TOY).encode(), read_labels, label_oracle),
    'names': one_file('names.txt', b'# CATH names\n1    1oaiA00    :Mainly Alpha\n1.10    1oaiA00    :Orthogonal Bundle\n1.10.8.10    1oaiA00    :\n', read_cath_names, names_oracle),
    'residue labels': one_file('letters.tsv', ''.join(f'{d.id}\t{d.dssp}\n' for d in TOY).encode(), read_residue_labels, residue_labels_oracle),
    'residue label fasta': one_file('letters.fa', toy_text('dssp'), read_residue_labels, residue_labels_oracle),
    'plain headers': one_file('plain.fa', with_headers('a', 'b the second', 'c'), proteins('plain'),
        headers_oracle(lambda head: head.split()[0], lambda head: ' '.join(head.split(None, 1)))),
    'uniprot headers': one_file('uniprot.fa', with_headers('sp|P00350|6PGD_ECOLI 6-phosphogluconate dehydrogenase OS=Escherichia coli (strain K12) OX=83333 GN=gnd PE=1 SV=2',
        'sp|P05067-2|A4_HUMAN Isoform APP305 of Amyloid OS=Homo sapiens OX=9606 GN=APP', 'tr|A0A0A1A2B3|A0A0A1A2B3_9BACT Protein X OS=A bacterium OX=77 PE=4 SV=1'),
        proteins('uniprot'), headers_oracle(lambda head: head.split('|')[1], lambda head: re.sub(r'( (OX|PE|SV)=)0+(?=\d)', r'\1', head))),
    'deeplocpro headers': one_file('deeplocpro.fa', with_headers('A0A0H2US87|Extracellular|negative|3', 'P12345|Cytoplasmic|archaea|0'), proteins('deeplocpro'),
        headers_oracle(lambda head: head.split('|')[0], lambda head: '|'.join(field.strip() for field in re.sub(r'0+(?=\d+\s*$)', '', head).split('|')))),
    'pdb': one_file('toy.pdb', pdb_text(CHAIN).encode(), chain, pdb_oracle),
    'mmcif': one_file('toy.cif', cif_text().encode(), chain, cif_oracle),
    'dssp': one_file('toy.dssp', dssp_text().encode(), dssp, dssp_oracle),
    'dssp mmcif': one_file('toy_dssp.cif', dssp_cif_text().encode(), dssp, dssp_cif_oracle),
    'dssp table': one_file('dssp.tsv', dssp_table_text().encode(), read_dssp_table, dssp_table_oracle),
    'variants': one_file('scan.csv', scan_text(), scan, scan_oracle),
    'split': one_file('split.json', lambda: tiny_run()['split.json'], split_values, split_oracle, lines=False),
    'id lists': Format(id_list_files, id_lists, lambda files: ids_oracle([[line.strip() for line in rows_of(files[f'{p}.txt'])] for p in PARTS])),
    'manifest': one_file('manifest.json', json.dumps(ENTRIES, indent=1).encode(), lambda file: [asdict(r) for r in read_manifest(file).values()], manifest_oracle, lines=False),
    'listing': one_file('listing.json', json.dumps(LISTED).encode(), lambda file: [(r.file.removeprefix('paper/files/'), r.url, r.bytes,
        *(('md5', r.md5) if r.md5 else ('sha256', r.sha256))) for r in read_listing(file, RELEASE)], listing_oracle, lines=False),
    'zip': one_file('toy.zip', zip_bytes, unpacked, lambda data: sorted(MEMBERS.values()), lines=False),
    'tgz': one_file('toy.tgz', tgz_bytes, unpacked, lambda data: sorted(MEMBERS.values()), lines=False),
    'plm': one_file('tiny.safetensors', lambda: saved(save_plm, model())['file'], plm, plm_oracle, lines=False),
    'plm of fair-esm': Format(their_files, their_plm, their_oracle, lines=False),
    'plm of transformers': Format(hf_files, hf_plm, hf_oracle, lines=False),
    'run': Format(lambda: {name: tiny_run()[name] for name in ('config.json', 'result.json', 'log.jsonl', 'mask.safetensors')}, run, run_oracle, lines=False),
    'checkpoint': one_file('00000002.safetensors', lambda: tiny_run()['00000002.safetensors'], checkpoint, checkpoint_oracle, lines=False),
    'pretraining': one_file('00000004.safetensors', lambda: pretraining_files()['00000004.safetensors'], pretraining, pretraining_oracle, lines=False),
    'mask': one_file('mask.safetensors', lambda: saved(save_mask, some_mask())['file'], mask, mask_oracle, lines=False),
}
