"""Time and peak memory of reading the real CATH S20 files, each time in a fresh process.

    python benchmarks/read_cath.py [FOLDER] [--runs 5]"""
import argparse, json, statistics, subprocess, sys
from plmsub.core import shared_dir

CODE = '''
import json, resource, sys, time
from plmsub.cath import of_length, read_domains
start = time.perf_counter()
domains = read_domains(sys.argv[1] + '/cath-domain-list-S20-v4_3_0.txt', sys.argv[1] + '/cath-dataset-nonredundant-S20-v4_3_0.fa')
print(json.dumps(dict(seconds=time.perf_counter() - start, read=len(domains), kept=len(of_length(domains, 64, 512)),
                      peak_MB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)))
'''

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', nargs='?', help="CATH files; by default the shared data's")
    parser.add_argument('--runs', type=int, default=5)
    flags = parser.parse_args()
    folder = flags.folder or str(shared_dir()/'cath')
    runs = [json.loads(subprocess.run([sys.executable, '-c', CODE, folder], capture_output=True, text=True, check=True).stdout) for _ in range(flags.runs)]
    print(f"{runs[0]['read']:,} domains read, {runs[0]['kept']:,} of 64-512 residues; "
          f"{statistics.median(r['seconds'] for r in runs):.2f} s (max {max(r['seconds'] for r in runs):.2f}), peak {max(r['peak_MB'] for r in runs):.0f} MB")
