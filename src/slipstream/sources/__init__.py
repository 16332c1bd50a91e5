"""Stage one, locate: which blobs make up this checkpoint?"""
